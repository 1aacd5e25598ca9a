"""Tells people and programs of a job's events: signed webhooks, or a command of the settings."""
