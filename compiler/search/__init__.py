"""Search numbers block by block, in torch: what the quantization plan says."""
