"""Statements of those who render: whose turn it is, claims, shifts, pins, scorers' work."""
