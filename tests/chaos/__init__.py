"""The chaos harness: breaks a running system in every way we know, and counts what was promised.

`python -m tests.chaos --kills 1000 …` runs a campaign; `docs/reliability.md` says how to read it.
Production's code runs unchanged: only the engine is a fake one, leases are short, and named
places in the code can be made to end the process (`crashes`).
"""
