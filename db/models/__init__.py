"""Registered models: names, files, weights digests, and what a model can do."""
