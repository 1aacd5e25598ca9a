"""The group of all commands. A command's module is imported only when the command is used.

`imagemill --help` is fast because `command_table` has a line of help for each command. The modules
import SQLAlchemy, pyarrow and other large libraries.
"""

import difflib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem, shell_complete

from imagemill.db.errors import ImagemillError, UsageError, first_line
from imagemill.db.given_settings import home_environment
from imagemill.db.process.logs import HumanFormatter, TerminalFormatter, secrets_of
from imagemill.db.process.quick_import import quick_import
from imagemill.scheduler_jobs.cli.command_table import CommandEntry, commands_below
from imagemill.scheduler_jobs.cli.completion import offer_values
from imagemill.scheduler_jobs.cli.exit_codes import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_SERVICE,
    EXIT_UNREAD,
    report,
)
from imagemill.scheduler_jobs.cli.value_types import FilledPath, strict_values

NOT_HERE = "Not available in this installation."

COMPLETE = "_IMAGEMILL_COMPLETE"
"""The variable in which a shell says that it asks for completions."""

EARLY_WORKER = "imagemill.early_worker"
"""Where `ctx.meta` has the worker's process of `imagemill run`, as `start_warm` gives it."""

_HELP = ("-h", "--help")

GLOBAL_FLAGS = ("--verbose",)
GLOBAL_VALUES = ("--home", "--config")


@dataclass(frozen=True, kw_only=True, slots=True)
class GlobalOptions:
    """The options of all commands. They may come before or after the command's name."""

    home: Path | None = None
    verbose: bool = False


class LazyGroup(click.Group):
    """A group whose commands are listed in a table and imported when they are used."""

    def __init__(self, *args: Any, table: Mapping[str, CommandEntry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name. Imports nothing."""
        return sorted({*super().list_commands(ctx), *self.table})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now. If that fails, it is a command that says so when it runs."""
        entry = self.table.get(cmd_name)
        return super().get_command(ctx, cmd_name) if entry is None else _load(cmd_name, entry)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names of commands as a shell completes them; nothing is imported."""
        if incomplete[:1] == "-":
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=entry.help)
            for name, entry in self.table.items()
            if name.startswith(incomplete) and " " not in name
        ]


class _Unread(Exception):
    """Nobody reads standard output any more."""


class ImagemillGroup(LazyGroup):
    """The outermost group: lists its commands by section, and sets every exit code."""

    _is_program = False
    """Whether this process was started as the command, and not for something else."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Like click, but the options of all commands may also follow the command's name."""
        return super().parse_args(ctx, _global_options_first(args))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Like click, with suggestions for a mistyped name."""
        name = args[0]
        known = self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx=ctx)
        if name == "run" and self._is_program and not set(_HELP).intersection(args):
            # It imports for seconds, so it begins before this process imports what `run` needs.
            from imagemill.scheduler_jobs.local.warm_process import start_warm  # noqa: PLC0415

            ctx.meta[EARLY_WORKER] = start_warm(dict(os.environ))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections of the list of commands."""
        del ctx
        width = max(map(len, self.table))
        for title in dict.fromkeys(entry.section for entry in self.table.values()):
            rows = [
                (name.ljust(width), entry.help if _is_here(entry) else NOT_HERE)
                for name, entry in self.table.items()
                if entry.section == title
            ]
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Like click, except for a closed pipe, which click would report as a failed command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise _Unread from None
        return result

    def main(  # type: ignore[override]  # no caller wants the return value of standalone mode off
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,
    ) -> NoReturn:
        """Run a command and exit with its code, never with a traceback unless `--verbose`."""
        _open_closed_streams()
        if COMPLETE in os.environ:
            _complete(self, prog_name or "imagemill")
        self._is_program = args is None
        arguments = list(sys.argv[1:] if args is None else args)
        extra.pop("standalone_mode", None)
        try:
            result = super().main(arguments, prog_name, standalone_mode=False, **extra)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(EXIT_INTERRUPTED)
        except _Unread:
            _drop_output()
            sys.exit(EXIT_UNREAD)
        except Exception as error:
            if "--verbose" in arguments and not isinstance(error, click.ClickException):
                _hide_secrets()
                logging.getLogger(__name__).exception("the command failed")
            sys.exit(_reported(error, as_json="--json" in arguments))
        sys.exit(result if isinstance(result, int) else EXIT_OK)


def _open_closed_streams() -> None:
    """Read nothing from standard input, and write nowhere, where a stream is closed (`>&-`).

    Python has None there, and the next file that is opened would get the stream's number.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            place = os.open(os.devnull, os.O_RDWR)
            if place != number:
                os.dup2(place, number)
                os.close(place)
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _complete(group: click.Group, prog_name: str) -> NoReturn:
    """Answer a shell that asks what to offer: with nothing, rather than with an error."""
    # A shell would print it into the middle of the line that is being typed.
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - until the end
    try:
        status = shell_complete(group, {}, prog_name, COMPLETE, os.environ[COMPLETE])
    except Exception:  # see above
        status = 1
    sys.stdout.flush()
    # A thread that still waits for a server is not waited for.
    os._exit(status)


def _reported(error: Exception, *, as_json: bool) -> int:
    """Report an error, also where nobody can take standard output; return the exit code."""
    try:
        code = report(error, as_json=as_json)
        sys.stdout.flush()
    except OSError:
        _drop_output()
        return EXIT_SERVICE
    return code


def _drop_output() -> None:
    """Drop what was not written: at its end Python would try again and report an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _hide_secrets() -> None:
    """From now on, this process's log writes no passwords and keys."""
    from imagemill.db.settings import Settings  # noqa: PLC0415  # 0.1 s, which `--help` need not wait for

    with suppress(ImagemillError):  # errors of settings do not contain their values
        formatter = HumanFormatter(secrets_of(Settings.load()))
        for handler in logging.getLogger().handlers:
            if isinstance(handler.formatter, HumanFormatter):
                handler.setFormatter(formatter)


def _global_options_first(args: Sequence[str]) -> list[str]:
    """The arguments, with global options that follow the command moved before it."""
    first: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        name, equals, _ = word.partition("=")
        if word == "--":
            rest += [word, *words]
        elif word in GLOBAL_FLAGS or (equals and name in GLOBAL_VALUES):
            first.append(word)
        elif word in GLOBAL_VALUES:
            first += [word, *(value for value in [next(words, None)] if value is not None)]
        else:
            rest.append(word)
    return first + rest


def _load(name: str, entry: CommandEntry) -> click.Command:
    module, _, attribute = entry.target.partition(":")
    try:
        command = getattr(quick_import(module), attribute)
    except (ImportError, AttributeError, OSError) as error:
        return _absent(name, first_line(error))
    if not isinstance(command, click.Command):
        return _absent(name, f"{entry.target} is not a click command")
    offer_values(command)
    strict_values(command)
    return command


def _is_here(entry: CommandEntry) -> bool:
    """Whether a command's module is installed. Imports its packages, not the module."""
    try:
        return find_spec(entry.target.partition(":")[0]) is not None
    except ImportError:
        return False


def _absent(name: str, why: str) -> click.Command:
    """A command that only says that it can't run in this installation."""

    def refuse(arguments: tuple[str, ...]) -> None:
        del arguments
        raise UsageError(
            f"`imagemill {name}` can't run in this installation ({why}); "
            "install imagemill with its GPU side: pip install imagemill"
        )

    return click.Command(
        name,
        callback=refuse,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        help=NOT_HERE,
        context_settings={"ignore_unknown_options": True},
        add_help_option=False,
    )


@click.group(
    cls=ImagemillGroup,
    table=commands_below(""),
    context_settings={"help_option_names": [*_HELP], "max_content_width": 100},
    epilog="`imagemill COMMAND --help` shows options and an example. Settings come from "
    "IMAGEMILL_* environment variables and imagemill.toml; `imagemill doctor` checks them.",
)
@click.option(
    "--home",
    type=FilledPath(path_type=Path, file_okay=False),
    help="Work on what `imagemill run --out DIR` or `imagemill --home DIR up` keeps in DIR.",
    metavar="DIR",
)
@click.option(
    "--config",
    type=FilledPath(path_type=Path, dir_okay=False, exists=True),
    help="Read settings from this file instead of imagemill.toml.",
    metavar="FILE",
)
@click.option("--verbose", is_flag=True, help="Log more, and show where errors come from.")
@click.version_option(package_name="imagemill", prog_name="imagemill")
@click.pass_context
def cli(ctx: click.Context, home: Path | None, config: Path | None, verbose: bool) -> None:
    """Render a manifest of prompts into pictures, each exactly once, recorded in SQL.

    \b
      imagemill run prompts.csv --out pictures
      imagemill --home pictures status latest
    """
    # The options go into the environment, so that the GPU side's commands and the processes that
    # we start have the same settings.
    if config is not None:
        os.environ["IMAGEMILL_CONFIG"] = str(config.absolute())
    handler = logging.StreamHandler()
    typed = sys.stderr.isatty() and not verbose
    handler.setFormatter(TerminalFormatter() if typed else HumanFormatter())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("imagemill").setLevel(logging.DEBUG if verbose else logging.WARNING)
    if verbose:
        os.environ["IMAGEMILL_LOG_LEVEL"] = "DEBUG"
    if home is not None:
        os.environ.update(home_environment(home))
    ctx.obj = GlobalOptions(home=home, verbose=verbose)
