"""Counts of rows by something that they hold, with the first rows of each as examples."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from imagemill.scheduler_jobs.manifest import RowText

SHOWN_ROWS = 5
"""How many rows of each name are kept to be shown."""


class RowCounts:
    """Counts rows by name. The name is a kind of syntax, or a column."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._examples: dict[str, list[RowText]] = {}

    def add(self, found: Mapping[str, str], excerpt: Callable[[str], RowText]) -> None:
        """Count a row once for each name, whose text it holds. `excerpt` says where a text is."""
        for name, text in found.items():
            self._rows[name] = self._rows.get(name, 0) + 1
            examples = self._examples.setdefault(name, [])
            if len(examples) < SHOWN_ROWS:
                examples.append(excerpt(text))

    def found(self, names: Iterable[str]) -> Iterator[tuple[str, int, tuple[RowText, ...]]]:
        """Those of these names that some row holds: the name, its rows, and its examples."""
        for name in names:
            if name in self._rows:
                yield name, self._rows[name], tuple(self._examples[name])
