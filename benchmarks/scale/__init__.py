"""What one PostgreSQL serves: many simulated workers, large tables, and bytes an image."""
