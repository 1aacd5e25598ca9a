"""Paths on the command line: an empty text is none."""

from typing import Any

import click


class FilledPath(click.Path):
    """A path that may not be an empty text, which would stand for the current folder.

    A script that says `--out "$OUT"` without setting OUT means no such thing.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Like click, without empty texts."""
        if value in {"", b""}:
            self.fail("an empty path", param, ctx)
        return super().convert(value, param, ctx)


def refuse_empty_paths(command: click.Command) -> None:
    """Let the options and arguments of a command that are paths refuse an empty text."""
    for param in command.params:
        if type(param.type) is click.Path:
            filled = FilledPath()
            vars(filled).update(vars(param.type))
            param.type = filled
