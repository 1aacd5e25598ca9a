"""The scorers: what judges finished pictures, by name. Imports none of them.

`BUILT_IN` has our own. A package adds one by an entry point in the group `imagemill.scorers`; its
version is the package's. `docs/scores.md` describes all of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType
from typing import Any

from imagemill.db.errors import UsageError

GROUP = "imagemill.scorers"
"""The group of entry points that packages add scorers by."""

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""Names of scorers and of scores: they are columns in conditions and in exports."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerEntry:
    """A scorer: its name, its version, and `module:attribute` of what makes it.

    A new version judges every image again. `title` says in a few words what it measures. One of
    the registry file has its table in `options`, and in `problem` why it can't be used here.
    """

    name: str
    version: str
    target: str
    title: str
    options: Any = None
    problem: str | None = None


_PLAIN = "imagemill.worker.scores.plain"

BUILT_IN: Mapping[str, ScorerEntry] = MappingProxyType(
    {
        name: ScorerEntry(name=name, version=version, target=target, title=title)
        for name, version, target, title in (
            (
                *("phash", "1", f"{_PLAIN}:PerceptualHash"),
                "64-bit perceptual hash as 16 hex digits; near-duplicates differ in few bits",
            ),
            (
                *("sharpness", "1", f"{_PLAIN}:Sharpness"),
                "variance of the Laplacian of the grey picture; 0 is flat",
            ),
            (
                *("entropy", "1", f"{_PLAIN}:Entropy"),
                "Shannon entropy of the grey histogram in bits, 0 to 8",
            ),
            (
                *("colourfulness", "1", f"{_PLAIN}:Colourfulness"),
                "Hasler and Suesstrunk's M; 0 is grey, above 100 is very colourful",
            ),
            (
                *("blank", "1", f"{_PLAIN}:Blank"),
                "1 if all pixels have nearly the same colour, else 0",
            ),
            (
                *("shapes64", "1", "imagemill.worker.scores.shapes64.scorer:Shapes64"),
                "whether a picture of shapes64 has the background, colour and kind of its prompt",
            ),
        )
    }
)
"""The scorers that need no model and no server."""


def known_scorers() -> dict[str, ScorerEntry]:
    """Every scorer here, by name: ours, and those that installed packages add.

    Raises `UsageError` if two have one name, or if a name is no name for a column.
    """
    found = dict(BUILT_IN)
    for point in metadata.entry_points(group=GROUP):
        package = point.dist
        named = "a package" if package is None else package.name
        if NAME.fullmatch(point.name) is None:
            raise UsageError(
                f"{named}: the scorer {point.name!r} needs a name of small letters, digits and _"
            )
        if point.name in found:
            raise UsageError(f"{named}: there is a scorer {point.name} already")
        found[point.name] = ScorerEntry(
            name=point.name,
            version="0" if package is None else package.version[:64],
            target=point.value,
            title=f"of the package {named}",
        )
    return found


def find_scorers(names: Sequence[str], known: Mapping[str, ScorerEntry]) -> list[ScorerEntry]:
    """The scorers of these names, each once.

    A `UsageError` names those that there are, or says why one can't be used here.
    """
    for name in names:
        if name not in known:
            raise UsageError(f"no scorer is called {name!r}; there are {', '.join(sorted(known))}")
        problem = known[name].problem
        if problem is not None:
            raise UsageError(problem)
    return [known[name] for name in dict.fromkeys(names)]
