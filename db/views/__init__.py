"""The SQL views for readers: their definitions, and what each column says."""
