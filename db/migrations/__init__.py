"""Alembic's folder: the schema's history. New migrations only add; see CONTRIBUTING."""
