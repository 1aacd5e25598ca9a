"""A planted mistake, as the lists beside this module write it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A mistake: `wrong` in the place of `right`, and the tests that must notice."""

    name: str
    file: str
    right: str
    wrong: str
    checks: tuple[str, ...]
    only: str = "not postgres"
    """pytest's -k: SQLite is quicker to start, and the statements are the same."""


def mutant(
    name: str, file: str, right: str, wrong: str, *checks: str, only: str = "not postgres"
) -> Mutant:
    """A mutant from its fields in their order, and any number of checks."""
    return Mutant(name=name, file=file, right=right, wrong=wrong, checks=checks, only=only)
