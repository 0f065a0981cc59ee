"""Command line of the platform operator."""
