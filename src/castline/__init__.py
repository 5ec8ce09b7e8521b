"""Castline compiles Hugging Face checkpoints into quantized, checked, deployable engines."""

__version__ = "0.1.0"
