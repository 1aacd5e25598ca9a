"""Curation: passes of scorers over finished images, tags, the best of each row, near-duplicates."""
