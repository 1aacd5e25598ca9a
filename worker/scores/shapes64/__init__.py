"""Judges pictures of shapes64 by plain arithmetic: whether they show what their prompt asks for.

`tools/` draws the pictures that the model was trained on with the same modules, and scores models
by them.
"""
