"""Commands that run and look after the services, the workers and the database."""
