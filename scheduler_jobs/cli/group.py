"""The group of all commands: found without importing them, loaded when they are named.

`imagemill --help` answers at once because one line of help per command stands here; the
module behind it (SQLAlchemy, pyarrow, …) is imported when the command runs. Commands of other
packages come from the entry points `imagemill.commands`, so that the control side never imports
the GPU side; their line of help is the first of their docstring.
"""

import ast
import difflib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import click

from imagemill.db.errors import ImagemillError, UsageError
from imagemill.db.logs import HumanFormatter, secrets_of
from imagemill.scheduler_jobs.cli.exit_codes import EXIT_INTERRUPTED, EXIT_OK, EXIT_UNREAD, report

PLUGINS = "imagemill.commands"
NOT_HERE = "Not available in this installation."


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnCommand:
    """A command of this package: where it is, and its line in `imagemill --help`."""

    target: str
    help: str


_HERE = "imagemill.scheduler_jobs.cli"

OWN_COMMANDS: Mapping[str, OwnCommand] = MappingProxyType(
    {
        name: OwnCommand(target=f"{_HERE}.{target}", help=text)
        for name, target, text in (
            ("run", "manifests:run", "Render a manifest here and now, with no server."),
            ("plan", "manifests:plan", "Check a manifest and say what it would render."),
            ("submit", "manifests:submit", "Queue a manifest for the workers."),
            ("status", "jobs:status", "Show how far the live jobs are, or one job in detail."),
            ("watch", "watch:watch", "Follow a job until it ends."),
            ("jobs", "jobs:jobs", "List jobs, newest first."),
            ("images", "images:images", "List and filter images."),
            ("show", "images:show", "Show everything that is known about one image."),
            ("errors", "errors:errors", "Show what went wrong in a job."),
            ("contact-sheet", "sheets:contact_sheet", "Put a job's pictures on one page."),
            ("retry", "job_control:retry", "Render a job's dead images again."),
            ("pause", "job_control:pause", "Stop rendering a job until it is resumed."),
            ("resume", "job_control:resume", "Let a paused job be rendered again."),
            ("cancel", "job_control:cancel", "Cancel what a job has not rendered yet."),
            ("models", "models:models", "List the models that manifests may name."),
            ("samplers", "models:samplers", "List the samplers and all their names."),
            ("dispatcher", "services:dispatcher", "Keep workers busy and rescue lost images."),
            ("flower", "services:flower", "Serve Flower, the web page of the Celery workers."),
            (
                "verify",
                "store_check:verify",
                "Check every file of a job against its recorded hash.",
            ),
            ("sweep", "store_check:sweep", "Find stored files that no image owns."),
            ("migrate", "services:migrate", "Create or upgrade the database's tables."),
            ("doctor", "doctor:doctor", "Check the set-up and say how to mend it."),
        )
    }
)

SECTIONS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "Render": ("run", "plan", "submit"),
        "Look": ("status", "watch", "jobs", "images", "show", "errors", "contact-sheet"),
        "Steer": ("retry", "pause", "resume", "cancel"),
        "Prove": ("reproduce", "certify", "roundtrip", "verify", "sweep"),
        "Models": ("models", "samplers"),
        "Operate": ("worker", "dispatcher", "flower", "migrate", "doctor"),
    }
)
"""How `--help` sorts the commands; what is not named here comes under "More"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GlobalOptions:
    """What stands before the command's name."""

    home: Path | None = None
    verbose: bool = False


class LazyGroup(click.Group):
    """A group whose commands are its own, or entry points of the group `plugins`."""

    def __init__(self, *args: Any, plugins: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plugins = plugins

    @cached_property
    def entry_points(self) -> Mapping[str, EntryPoint]:
        """The installed commands of other packages, by name."""
        return {point.name: point for point in entry_points(group=self._plugins)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name; nothing is imported."""
        return sorted({*super().list_commands(ctx), *self.entry_points})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; one that can't be imported says so when it is run."""
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in self.entry_points:
            found = _plugin(self.entry_points[cmd_name])
        return found


class _Unread(Exception):
    """Nobody reads standard output any more."""


class ImagemillGroup(LazyGroup):
    """The outermost group: lists its commands by section, and gives every ending its exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `LazyGroup`."""
        return sorted({*OWN_COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `LazyGroup`."""
        own = OWN_COMMANDS.get(cmd_name)
        return super().get_command(ctx, cmd_name) if own is None else _load(own.target)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with suggestions for a mistyped name."""
        name = args[0]
        known = self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections of the list of commands."""
        names = self.list_commands(ctx)
        width = max(map(len, names))
        sections = dict(SECTIONS)
        sections["More"] = [n for n in names if not any(n in s for s in SECTIONS.values())]
        for title, members in sections.items():
            rows = [
                (name.ljust(width), self._short_help(ctx, name))
                for name in members
                if name in names
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def _short_help(self, ctx: click.Context, name: str) -> str:
        own = OWN_COMMANDS.get(name)
        if own is not None:
            return own.help
        return _first_doc_line(self.entry_points[name])

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, but for a closed pipe, which click would report as a failed command."""
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
        arguments = list(sys.argv[1:] if args is None else args)
        extra.pop("standalone_mode", None)
        try:
            result = super().main(arguments, prog_name, standalone_mode=False, **extra)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(EXIT_INTERRUPTED)
        except _Unread:
            # Python writes what is still in its buffer when it ends, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_UNREAD)
        except Exception as error:
            if "--verbose" in arguments and not isinstance(error, click.ClickException):
                _hide_secrets()
                logging.getLogger(__name__).exception("the command failed")
            sys.exit(report(error, as_json="--json" in arguments))
        sys.exit(result if isinstance(result, int) else EXIT_OK)


def _hide_secrets() -> None:
    """From here on, passwords and keys are not written by this process's log."""
    from imagemill.db.settings import Settings  # noqa: PLC0415  # 0.1 s, which `--help` need not wait for

    with suppress(ImagemillError):  # settings that can't be read are told without their values
        formatter = HumanFormatter(secrets_of(Settings.load()))
        for handler in logging.getLogger().handlers:
            if isinstance(handler.formatter, HumanFormatter):
                handler.setFormatter(formatter)


def _load(target: str) -> click.Command:
    module, _, attribute = target.partition(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command)
    return command


def _plugin(point: EntryPoint) -> click.Command:
    try:
        command = point.load()
    except (ImportError, AttributeError, OSError) as error:
        return _absent(point, str(error).splitlines()[0] if str(error) else type(error).__name__)
    if not isinstance(command, click.Command):
        return _absent(point, f"{point.value} is not a click command")
    return command


def _first_doc_line(point: EntryPoint) -> str:
    """The first line of a command's docstring, read from its source without importing it."""
    try:
        spec = find_spec(point.module)
        source = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
        statements = ast.parse(source).body
    except (ImportError, OSError, SyntaxError):
        return NOT_HERE
    for statement in statements:
        if isinstance(statement, ast.FunctionDef) and statement.name == point.attr:
            return (ast.get_docstring(statement) or "").partition("\n")[0]
    return NOT_HERE


def _absent(point: EntryPoint, why: str) -> click.Command:
    """A command that says that it can't run in this installation, whatever it is given."""

    def refuse(arguments: tuple[str, ...]) -> None:
        del arguments
        raise UsageError(
            f"`imagemill {point.name}` can't run in this installation ({why}); "
            "install imagemill with its GPU side: pip install imagemill"
        )

    return click.Command(
        point.name,
        callback=refuse,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        help=NOT_HERE,
        context_settings={"ignore_unknown_options": True},
        add_help_option=False,
    )


@click.group(
    cls=ImagemillGroup,
    plugins=PLUGINS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`imagemill COMMAND --help` shows options and an example. Settings come from "
    "IMAGEMILL_* environment variables and imagemill.toml; `imagemill doctor` checks them.",
)
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Work on what `imagemill run --out DIR` keeps in its folder DIR.",
    metavar="DIR",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
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
    # Into the environment, so that commands of other packages and the processes that we start
    # see the same settings.
    if config is not None:
        os.environ["IMAGEMILL_CONFIG"] = str(config.absolute())
    handler = logging.StreamHandler()
    handler.setFormatter(HumanFormatter())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("imagemill").setLevel(logging.DEBUG if verbose else logging.WARNING)
    if verbose:
        os.environ["IMAGEMILL_LOG_LEVEL"] = "DEBUG"
    if home is not None:
        # Settings take 0.1 s to import, which `--help` need not wait for.
        from imagemill.db.settings import Settings  # noqa: PLC0415  # see above

        os.environ.update(Settings.for_home(home).environment())
    ctx.obj = GlobalOptions(home=home, verbose=verbose)
