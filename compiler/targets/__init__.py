"""Lower the neutral graph to a runtime, write it, build it, load it."""
