"""Reassemble channels and quantize each token, in one op."""
