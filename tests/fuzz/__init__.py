"""Fuzzed manifests through everything that `submit` does before it writes: read, expand, plan.

    python -m tests.fuzz --rows 200000 --seed 1

No input may raise, hang, or take much memory; each ends as rows or as problems that print.
"""
