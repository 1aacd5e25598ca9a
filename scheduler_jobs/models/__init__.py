"""Looks at models before anybody renders with them: what they are, and what they can do."""
