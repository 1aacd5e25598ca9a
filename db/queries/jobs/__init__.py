"""Statements on jobs: made, loaded, steered, watched, removed."""
