"""The arithmetic of quantization: arrays in, arrays out, no graph."""
