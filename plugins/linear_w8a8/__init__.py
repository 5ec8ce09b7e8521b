"""Multiply INT8 activations by INT8 weights."""
