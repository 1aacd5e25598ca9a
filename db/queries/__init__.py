"""Every SQL statement. Functions take a `Session` and never commit: the caller owns it.

A transition is one fenced statement: it names the state (and the shift) it expects, and what it
did not change belonged to somebody else. Each transition appends to `tallies` in the same
transaction, which keeps every job's counts exact.
"""
