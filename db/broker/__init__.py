"""The broker: the Celery application, the wake-ups that it carries, and TLS to it."""
