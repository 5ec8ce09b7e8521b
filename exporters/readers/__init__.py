"""One file format of checkpoints a file: names and shapes first, tensors one by one."""
