"""The infrastructure: a stack reads from top to bottom like the architecture diagram."""
