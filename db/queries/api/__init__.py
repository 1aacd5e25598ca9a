"""Statements of `imagemill serve`: keys, requests, files."""
