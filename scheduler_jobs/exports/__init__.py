"""Exports: a job's pictures in the layouts that other tools read, one writer a module.

    selection → (pictures, names) → a layout of `formats` → target (a folder or a bucket)

An export reads one snapshot of the database, in pages. It is written file by file, each whole or
not at all; the same selection gives the same bytes, also after it was interrupted and taken up
again. `docs/exports.md` describes every format.
"""
