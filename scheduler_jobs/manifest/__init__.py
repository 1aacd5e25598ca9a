"""Manifests: from a file of prompts to validated rows, as a stream.

    open_source → lines (gzip, UTF-8) → csv | tsv | jsonl | json | parquet | text → rows

Every format's reader yields raw cells; `rows` gives them their meaning by the table in
`columns` and the rules in `values`. What is wrong comes out as `Problem`s, in order.
"""

from scheduler_jobs.manifest.formats import FORMATS
from scheduler_jobs.manifest.layers import parameters_from_flags, parameters_from_toml
from scheduler_jobs.manifest.limits import Limits
from scheduler_jobs.manifest.parameters import AdapterChoice, Parameters
from scheduler_jobs.manifest.problems import BadValue, Problem
from scheduler_jobs.manifest.raw import JSON
from scheduler_jobs.manifest.reading import read_manifest
from scheduler_jobs.manifest.rows import ManifestRow
from scheduler_jobs.manifest.source import Source, open_source

__all__ = [
    "FORMATS",
    "JSON",
    "AdapterChoice",
    "BadValue",
    "Limits",
    "ManifestRow",
    "Parameters",
    "Problem",
    "Source",
    "open_source",
    "parameters_from_flags",
    "parameters_from_toml",
    "read_manifest",
]
