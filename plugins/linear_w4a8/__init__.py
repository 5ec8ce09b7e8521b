"""Multiply INT8 activations by INT4 weights."""
