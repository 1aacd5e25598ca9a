"""Manifests: from a file of prompts to validated rows, as a stream.

    open_source → lines (unpacked, UTF-8) → csv | tsv | jsonl | json | parquet | text → rows

`sources` opens files and divides them into lines. Each format in `formats` has a reader that yields
raw cells. `rows` interprets them with the tables in `columns` and the rules in `values`. Errors are
yielded as `Problem`s, in the order of the file.
"""

from imagemill.scheduler_jobs.manifest.columns.column_report import ColumnReport, ColumnReports
from imagemill.scheduler_jobs.manifest.formats.detection import FORMATS
from imagemill.scheduler_jobs.manifest.layers import parameters_from_flags, parameters_from_toml
from imagemill.scheduler_jobs.manifest.limits import Limits
from imagemill.scheduler_jobs.manifest.parameters import AdapterChoice, Parameters
from imagemill.scheduler_jobs.manifest.problems import BadValue, Problem, RowText
from imagemill.scheduler_jobs.manifest.raw_rows import JSON
from imagemill.scheduler_jobs.manifest.reader import read_manifest
from imagemill.scheduler_jobs.manifest.rows import ManifestRow
from imagemill.scheduler_jobs.manifest.sources.source import (
    PROMPTS,
    Source,
    open_source,
    prompts_source,
)

__all__ = [
    "FORMATS",
    "JSON",
    "PROMPTS",
    "AdapterChoice",
    "BadValue",
    "ColumnReport",
    "ColumnReports",
    "Limits",
    "ManifestRow",
    "Parameters",
    "Problem",
    "RowText",
    "Source",
    "open_source",
    "parameters_from_flags",
    "parameters_from_toml",
    "prompts_source",
    "read_manifest",
]
