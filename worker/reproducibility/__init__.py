"""Proof that images can be rendered again: certificates, reproduction, round trips."""
