"""Quantize activations at run time, all by one scale."""
