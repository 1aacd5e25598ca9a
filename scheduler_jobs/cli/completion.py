"""What a shell is offered for jobs, models, samplers and files when somebody presses Tab.

Completion answers at once or not at all: whatever goes wrong (no database, settings that can't be
read), there is nothing to offer and nothing to say. Commands do not know of it: it goes by the
names of their options, so that commands of the GPU side have it too.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from click.shell_completion import CompletionItem

MOST_SECONDS = 1.0
"""How long a database is waited for: who pressed Tab is waiting too."""

MOST_JOBS = 50

_PLAIN = re.compile(r"[\w.@%+,-]+")
"""Names that mean nothing else to a shell; bash puts completions onto its line unquoted."""

Source = Callable[[click.Context, str], Iterator[CompletionItem]]


def offer_values(command: click.Command) -> None:
    """Let the options and arguments of a command offer values, by their names."""
    for param in command.params:
        names = param.opts if isinstance(param, click.Option) else [str(param.name)]
        for name in names:
            if name in SOURCES:
                param.shell_complete = _answering(SOURCES[name])  # type: ignore[method-assign, assignment]  # of this one


def _answering(source: Source) -> Callable[[click.Context, str], list[CompletionItem]]:
    """The source with a time limit, and without anything that it could say of its troubles."""

    def offer(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found: list[CompletionItem] = []

        def look() -> None:
            with suppress(Exception):
                found.extend(filter(_is_safe, source(ctx, incomplete)))

        # A daemon: a server that does not answer must not keep the process alive.
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(MOST_SECONDS)
        return list(found)

    return offer


def _is_safe(item: CompletionItem) -> bool:
    return item.type != "plain" or _PLAIN.fullmatch(item.value) is not None


def _settings(ctx: click.Context) -> Any:
    # 0.1 s that `--help` need not wait
    from imagemill.db.given_settings import home_environment  # noqa: PLC0415
    from imagemill.db.settings import Settings  # noqa: PLC0415

    given = ctx.find_root().params
    if given.get("config") is not None:
        os.environ["IMAGEMILL_CONFIG"] = str(given["config"])
    if given.get("home") is not None:
        os.environ.update(home_environment(given["home"]))
    return Settings.load()


def _jobs(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """`latest` and the names of the newest jobs."""
    if "latest".startswith(incomplete):
        yield CompletionItem("latest", help="the newest job")
    from sqlalchemy import select  # noqa: PLC0415  # slow to import

    from imagemill.db.database import Database  # noqa: PLC0415  # as above
    from imagemill.db.tables import Job  # noqa: PLC0415  # as above

    settings = _settings(ctx)
    file = settings.database_url.get_secret_value().partition("sqlite:///")[2]
    if file and not Path(file).is_file():
        return  # connecting would create it
    with closing(Database.from_settings(settings)) as database, database.reading() as session:
        newest = select(Job.id, Job.name, Job.state).order_by(Job.id.desc())
        named = newest.where(Job.name.startswith(incomplete, autoescape=True)).limit(MOST_JOBS)
        seen: set[str] = set()
        for job_id, name, state in session.execute(named):
            if name not in seen:
                seen.add(name)
                # click's script for fish ends a text at its first comma.
                yield CompletionItem(name, help=f"job {job_id} ({state})")


def _models(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    from imagemill.db.models.registry import load_registry  # noqa: PLC0415  # as above

    for name, entry in load_registry(_settings(ctx)).models.items():
        if name.startswith(incomplete):
            yield CompletionItem(name, help=entry.source or "")


def _samplers(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    del ctx
    from imagemill.db.samplers.names import OWN, SAMPLERS  # noqa: PLC0415  # as above

    for sampler in (*SAMPLERS, OWN):
        if sampler.name.startswith(incomplete):
            yield CompletionItem(sampler.name, help=sampler.display)


def _files(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """The shell lists them itself."""
    del ctx
    yield CompletionItem(incomplete, type="file")


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "job": _jobs,
        "--job": _jobs,
        "--model": _models,
        "names": _models,
        "--sampler": _samplers,
        "manifest": _files,
        "what": _files,
        "--init-image": _files,
        "--mask": _files,
    }
)
"""What is offered, by an option's or an argument's name."""
