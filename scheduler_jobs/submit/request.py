"""What a person asks for when submitting a manifest, as one value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imagemill.scheduler_jobs.expansion import Variants
from imagemill.scheduler_jobs.manifest import Parameters

NAME_CHARACTERS = 200
"""Of a job's name, which its column holds; a file's name may be longer, and is cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmissionRequest:
    """What a person asks for: a manifest (path, `-` or `s3://…`) and how to read it."""

    manifest: str
    name: str | None = None
    defaults: Parameters = field(default_factory=Parameters)
    seed: int = 0
    priority: int = 0
    route: str = "default"
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    skip_bad_rows: bool = False
    literal_words: bool = False
    """Whether `nan`, `None` and their like are prompts."""
    strict: bool = False
    """Whether a row whose prompts hold another tool's syntax is bad."""
    variants: Variants = "off"
    draws: int = 1
    """Prompts drawn of each row, where `variants` is `sample`."""
    grid: tuple[str, ...] = ()
    """Axes, each `parameter=value,value,…`."""
    wildcards: Path | None = None
    """The folder of the wildcard files."""
