"""One worker process: its children, its signals, and what it tells others."""
