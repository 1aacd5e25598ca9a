"""Registered models: their names, files, weights digests and facts."""
