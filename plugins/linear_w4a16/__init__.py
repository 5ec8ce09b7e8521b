"""Multiply float activations by 4-bit weights in groups."""
