"""Multiply activations of up to four bits by INT4 weights."""
