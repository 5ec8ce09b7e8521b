"""A checkpoint becomes a float graph."""
