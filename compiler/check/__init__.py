"""Compare a result with its original, and judge it."""
