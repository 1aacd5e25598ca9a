"""Batch image generation on your own GPUs."""
