"""The schema's history. New migrations only add, so that workers of the version before go on."""
