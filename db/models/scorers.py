"""All scorers of an installation: ours, those of packages, and those of the registry file."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from imagemill.db.errors import ModelError, UsageError
from imagemill.db.models.registry import load_registry
from imagemill.db.models.scorer_tables import (
    AestheticTable,
    JudgeTable,
    ScorerTable,
    WeightsTable,
)
from imagemill.db.models.weights import component_files, digest_of_files, hub_cache
from imagemill.db.scorers import NAME, ScorerEntry, known_scorers
from imagemill.db.settings import Settings

_TARGETS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "clip": ("imagemill.worker.scores.vision:ClipScorer", "CLIP score of picture and prompt"),
        "aesthetic": ("imagemill.worker.scores.vision:AestheticScorer", "aesthetic head on CLIP"),
        "classifier": (
            "imagemill.worker.scores.vision:ClassifierScorer",
            "probability of a classifier's label",
        ),
        "judge": ("imagemill.worker.scores.judge:Judge", "answer of a vision-language model"),
    }
)

_NO_JUDGEMENT = frozenset(
    {"url", "key_variable", "requests_per_minute", "parallel", "timeout_seconds", "retries"}
    | {"price_in", "price_out", "source", "head"}
)
"""Fields that do not decide what a scorer says; weights are known by their content."""


def all_scorers(settings: Settings) -> dict[str, ScorerEntry]:
    """Every scorer by name. One whose weights are not here has a `problem`.

    Raises:
        ModelError: the registry file can't be read.
        UsageError: two scorers have one name, or a name is none.
    """
    found = known_scorers()
    for name, table in load_registry(settings).scorers.items():
        if NAME.fullmatch(name) is None:
            raise UsageError(f"scorers.{name}: a name has small letters, digits and _")
        if name in found:
            raise UsageError(f"scorers.{name}: there is a scorer {name} already")
        found[name] = _entry(name, table, hub_cache(settings.model_cache))
    return found


def _entry(name: str, table: ScorerTable, cache: Path) -> ScorerEntry:
    target, title = _TARGETS[table.kind]
    version, problem = "-", None
    try:
        version = _version(table, cache)
    except (ModelError, OSError) as error:
        problem = f"the scorer {name}: {error}"
    return ScorerEntry(
        name=name, version=version, target=target, title=title, options=table, problem=problem
    )


def _version(table: ScorerTable, cache: Path) -> str:
    """16 hex digits of what decides its scores: weights, labels, questions."""
    said = table.model_dump(mode="json", exclude=set(_NO_JUDGEMENT))
    files: dict[str, Path] = {}
    if isinstance(table, WeightsTable) and not table.on_hub:
        folder = Path(table.source)
        files = {file.name: file for file in component_files(folder, None)}
    if isinstance(table, WeightsTable) and table.on_hub:
        said["source"] = table.source
    if isinstance(table, AestheticTable):
        files["head"] = table.head
    if files:
        said["files"] = digest_of_files(files, cache)
    if isinstance(table, JudgeTable) and table.answer == "text":
        del said["most"]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
