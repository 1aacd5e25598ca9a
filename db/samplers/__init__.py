"""Samplers: their names, their options, and the samplers that each pipeline works with."""
