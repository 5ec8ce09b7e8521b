"""Quantize activations at run time, each token by a scale of its own."""
