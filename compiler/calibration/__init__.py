"""Text and the token batches made of it."""
