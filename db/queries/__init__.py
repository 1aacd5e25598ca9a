"""Every SQL statement. Functions take a `Session` and never commit: the caller owns it.

A transition is one fenced statement. It names the state (and the shift) that it expects, so a row
that it does not change belongs to somebody else. Each transition appends to `tallies` in the same
transaction, which keeps every job's counts exact.
"""
