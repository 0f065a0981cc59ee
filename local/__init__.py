"""The cloud on a laptop: starts it, deploys the real templates into it, seeds it, serves a scripted model."""
