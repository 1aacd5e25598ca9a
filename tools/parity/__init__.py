"""Parity: what diffusers' own pipelines draw, and how near the engines come to it."""
