"""The formats of manifests: a reader each, which yields the rows of a file as raw cells."""
