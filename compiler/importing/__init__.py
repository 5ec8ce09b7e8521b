"""Carry what a quantized checkpoint stores into the graph, and show that nothing changed."""
