"""Thousands of histories of the state machine, on a clock that only moves when told to.

Workers claim, begin, complete, fail, freeze, die, come back late; operators cancel, pause, resume
and retry; producers die half-way and submit again; commits have unknown outcomes. After every
step the promises I1-I8 are checked against an independent reading of the tables.
`python -m tests.simulation --histories 2000 --seed 1` runs as many as wanted.
"""
