"""Alembic's folder: the schema's history. New migrations only add: workers of the version before go on."""
