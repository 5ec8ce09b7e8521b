"""Find where per-channel scales may be folded, by proof from the graph."""
