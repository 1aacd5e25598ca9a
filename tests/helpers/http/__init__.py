"""Servers that tests listen with, their clients, and a browser."""
