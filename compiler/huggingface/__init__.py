"""Hand a model back as a Hugging Face checkpoint in the compressed-tensors format."""
