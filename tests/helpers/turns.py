"""In which order several processes take the tests: what waits beside what computes.

A test that waits for servers, leases and other processes leaves its core idle. Were they run one
after another, most of a run would be waiting.
"""

from collections.abc import Sequence

import pytest

WAITING = ("tests/e2e/", "tests/chaos/", "tests/integration/", "tests/security/")
"""Folders of tests that mostly wait; the longest first."""
COMPUTING = ("tests/oracle/", "tests/engine/", "tests/models/", "tests/simulation/", "tests/")
"""The others, the longest first."""


def take_turns(items: list[pytest.Item]) -> None:
    """Order the tests, and name for each the group that one process must run."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        name = group_of(item)
        item.add_marker(pytest.mark.xdist_group(name))
        groups.setdefault(name, []).append(item)
    lanes = (
        _lane([name for name in groups if waits(name)], WAITING),
        _lane([name for name in groups if not waits(name)], COMPUTING),
    )
    places = {name: (n + 0.5) / len(lane) for lane in lanes for n, name in enumerate(lane)}
    items[:] = [item for name in sorted(groups, key=places.__getitem__) for item in groups[name]]


def group_of(item: pytest.Item) -> str:
    """The test's file, or the test alone where it waits and shares nothing within the file."""
    file = item.nodeid.partition("::")[0]
    shared = any(
        definition.scope in ("module", "class", "package")
        for definitions in item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
        for definition in definitions
    )
    return file if shared or not waits(file) else item.nodeid.replace("@", " at ")


def waits(name: str) -> bool:
    """Whether tests of this file mostly wait."""
    return name.startswith(WAITING)


def _lane(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    def rank(name: str) -> int:
        return next(n for n, folder in enumerate(folders) if name.startswith(folder))

    return sorted(names, key=rank)
