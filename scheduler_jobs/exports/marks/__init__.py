"""Marks of origin in copies: a signature (C2PA) and an invisible watermark."""
