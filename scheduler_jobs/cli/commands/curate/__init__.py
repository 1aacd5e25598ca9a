"""Commands that judge and sort finished pictures."""
