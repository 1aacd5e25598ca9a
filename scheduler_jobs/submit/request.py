"""What a person asks for when submitting a manifest, as one value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.expansion import Variants
from imagemill.scheduler_jobs.manifest import Parameters, Source, open_source, prompts_source

NAME_CHARACTERS = 200
"""Of a job's name, which its column holds; a file's name may be longer, and is cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmissionRequest:
    """What a person asks for: a manifest and how to read it.

    The manifest is a path, a pattern of paths, a folder, `-` or `s3://…`, or several of them,
    whose rows follow one another.
    """

    manifest: str | tuple[str, ...]
    prompts: tuple[str, ...] = ()
    """Prompts in the place of a manifest, a row each."""
    rows: Callable[[], Source] | None = None
    """Rows of a program in the place of a manifest: opens them as one."""
    name: str | None = None
    inputs: Mapping[str, bytes] = field(default_factory=dict)
    """Input images that flags name, by the SHA-256 under which `defaults` have them."""
    defaults: Parameters = field(default_factory=Parameters)
    seed: int = 0
    priority: int = 0
    owner: str = ""
    """Whose job it is: owners share the workers."""
    weight: int = 1
    """Its share beside other jobs of its owner."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Labels that a worker must have to render it."""
    deadline: timedelta | datetime | None = None
    """When, or how long after it was submitted, what is not rendered is cancelled."""
    max_workers: int | None = None
    """The most worker processes that may render it at once."""
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
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels for the job, also if it is there already. They change nothing that is rendered."""
    notify: tuple[str, ...] = ()
    """Addresses of webhooks that get the job's events, also if it is there already."""

    def open(self, settings: Settings) -> Source:
        """The manifest, or the prompts as one; as `open_source` raises."""
        if self.rows is not None:
            return self.rows()
        if self.prompts:
            return prompts_source(self.prompts)
        return open_source(self.manifest, settings)
