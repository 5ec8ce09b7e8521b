"""What search decided, between it and the passes: the quantization plan and its files."""
