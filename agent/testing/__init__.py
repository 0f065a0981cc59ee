"""The ports in memory, shipped for teams that test their agents."""
