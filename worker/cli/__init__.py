"""The worker's side of the command line. Light to import: torch is loaded by the children."""
