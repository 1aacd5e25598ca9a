"""The engine over any other diffusers pipeline: images of equal settings share one call."""
