"""Answers for other programs: rows of a query or of jobs as Arrow, Parquet, CSV and JSON.

`cells` says how a value of the database looks outside, `arrow` finds a column's type, `formats`
writes a stream of rows.
"""
