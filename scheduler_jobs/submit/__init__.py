"""From a manifest to images that workers can claim."""
