"""Types of what is given on a command line: an empty text is no name and no path, NaN no number.

A script that says `--out "$OUT"` without setting OUT means no such thing. `strict_values` gives
these types to every command, so that none has to think of them.
"""

import math
from typing import Any

import click

MOST_ID = 2**63 - 1
"""The largest number that a BIGINT column holds."""


class FilledPath(click.Path):
    """A path that may not be an empty text, which would stand for the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Like click, without empty texts."""
        if value in {"", b""}:
            self.fail("an empty path", param, ctx)
        return super().convert(value, param, ctx)


class FilledText(click.types.StringParamType):
    """A text that may not be empty, which most code takes for one that was not given."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Like click, without empty texts."""
        if value in {"", b""}:
            self.fail("an empty text", param, ctx)
        return super().convert(value, param, ctx)


class AnyText(click.types.StringParamType):
    """A text that may be empty, because that says something: no negative prompt, no note."""


class FiniteFloat(click.types.FloatParamType):
    """A number: `nan` and `inf` are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Like click, without what a computation can't go on with."""
        return _finite(self, super().convert(value, param, ctx), param, ctx)


class FiniteFloatRange(click.FloatRange):
    """A number within bounds. NaN is not outside of any, as click compares."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Like click, without what a computation can't go on with."""
        return _finite(self, super().convert(value, param, ctx), param, ctx)


class StorableIntRange(click.IntRange):
    """A whole number within bounds that a column of a database can hold."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Like click, up to the largest number of 64 bits, which the help need not print."""
        number = super().convert(value, param, ctx)
        if number > MOST_ID:
            self.fail(f"{number} is more than {MOST_ID}", param, ctx)
        return number


_STRICT: dict[type[Any], type[Any]] = {
    click.Path: FilledPath,
    click.types.StringParamType: FilledText,
    click.types.FloatParamType: FiniteFloat,
    click.FloatRange: FiniteFloatRange,
    click.IntRange: StorableIntRange,
}


def strict_values(command: click.Command) -> None:
    """Let the options and arguments of a command refuse empty texts and numbers that are none."""
    for param in command.params:
        strict = _STRICT.get(type(param.type))
        if strict is not None:
            made: click.ParamType[Any] = object.__new__(strict)
            vars(made).update(vars(param.type))
            param.type = made


def _finite(
    kind: click.ParamType[Any],
    number: float,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> float:
    if not math.isfinite(number):
        kind.fail(f"{number} is no finite number", param, ctx)
    return number
