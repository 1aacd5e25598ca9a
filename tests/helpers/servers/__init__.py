"""Real servers for the tests, started from wheels: PostgreSQL, Valkey, and an S3 server.

Each is a context manager with `kill()` (SIGKILL), `restart()` (same address, same data) and
`stop()`. They listen on free loopback ports, keep their data in scratch folders, ask for random
passwords, and end with the process that started them however that ends.
"""
