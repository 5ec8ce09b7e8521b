"""A float graph becomes a quantized graph, then an engine."""
