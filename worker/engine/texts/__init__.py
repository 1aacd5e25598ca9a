"""Prompts for CLIP: weights, windows and embeddings, the same in both engines."""
