"""The GPU side: a Celery worker that claims images from SQL, renders, stores and records them."""
