"""The options that `run`, `plan` and `submit` share: they say what to render."""

from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args

import click
from click.core import ParameterSource

from imagemill.db.seeds import SEED_LIMIT
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.cli.arguments import at_most, whole
from imagemill.scheduler_jobs.cli.invocation import Invocation
from imagemill.scheduler_jobs.cli.value_types import AnyText
from imagemill.scheduler_jobs.expansion import Variants
from imagemill.scheduler_jobs.manifest import FORMATS
from imagemill.scheduler_jobs.owners import MOST_WEIGHT
from imagemill.scheduler_jobs.submit.options import (
    MOST_PRIORITY,
    MOST_WORKERS,
    PARAMETER_FLAGS,
    SubmissionOptions,
)
from imagemill.scheduler_jobs.submit.request import NAME_CHARACTERS, SubmissionRequest

P = ParamSpec("P")
T = TypeVar("T")

_PREFIX = "parameter_"

_AS_THEY_ARE = (
    *(
        "name",
        "priority",
        "owner",
        "weight",
        "max_workers",
        "needs",
        "deadline",
        "route",
        "extra",
        "manifest_format",
        "skip_bad_rows",
        "literal_words",
    ),
    *("strict", "grid", "variants", "draws", "wildcards", "labels"),
    "notify",
)
"""Options that `SubmissionOptions` takes under their own names."""

_JOB_OPTIONS = (
    click.option(
        "--prompt",
        "prompts",
        multiple=True,
        metavar="TEXT",
        help="Render this prompt, without a manifest; may be repeated.",
    ),
    click.option(
        "--map",
        "mapping",
        multiple=True,
        metavar="COLUMN=FIELD",
        help="Read this column as that field (prompt, seed, …); may be repeated.",
    ),
    click.option(
        "--extra",
        "extra",
        multiple=True,
        metavar="PATTERN",
        help="Keep these columns as they stand, without effect: sd_seed, 'sd_*'; may be repeated.",
    ),
    click.option(
        "--format",
        "manifest_format",
        type=click.Choice(FORMATS),
        help="The manifest's format; without it the content decides.",
    ),
    click.option(
        "--name",
        metavar="NAME",
        callback=at_most(NAME_CHARACTERS),
        help="The job's name; the file's if left out.",
    ),
    click.option(
        "--seed",
        "job_seed",
        type=int,
        callback=whole(0, SEED_LIMIT - 1),
        default=0,
        metavar="N",
        help="The job's seed; rows without a seed of their own derive theirs from it.",
    ),
    click.option(
        "--priority",
        type=int,
        callback=whole(-MOST_PRIORITY - 1, MOST_PRIORITY),
        default=0,
        metavar="N",
        help="Jobs with a higher number go first.",
    ),
    click.option(
        "--owner",
        metavar="NAME",
        help="Whose job it is, since owners share the workers; the system's user if left out.",
    ),
    click.option(
        "--weight",
        type=int,
        callback=whole(1, MOST_WEIGHT),
        default=1,
        metavar="N",
        help="The job's share beside other jobs of its owner: 3 gets three times as much as 1.",
    ),
    click.option(
        "--max-workers",
        type=int,
        callback=whole(1, MOST_WORKERS),
        metavar="N",
        help="Let at most so many worker processes render the job at once.",
    ),
    click.option(
        "--needs",
        multiple=True,
        metavar="KEY=VALUE",
        help="Only workers with this label (`worker --label`) render the job; may be repeated.",
    ),
    click.option(
        "--deadline",
        metavar="TIME",
        help="Cancel what is not rendered by then: a duration (12h) or a time (2026-12-24T18:00).",
    ),
    click.option(
        "--route", metavar="ROUTE", help="Only workers of this route (`worker --route`) render it."
    ),
    click.option(
        "--label",
        "labels",
        multiple=True,
        metavar="KEY=VALUE",
        help="A label for the job, which `imagemill jobs --label` finds; may be repeated.",
    ),
    click.option(
        "--notify",
        multiple=True,
        metavar="URL",
        help="A webhook that hears of the job's events; may be repeated.",
    ),
    click.option(
        "--defaults",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="TOML file of parameters, for values that neither row nor flag sets.",
    ),
    click.option(
        "--literal-words",
        is_flag=True,
        help="Take nan, None, NULL and similar words as prompts, not as missing texts.",
    ),
    click.option(
        "--strict",
        is_flag=True,
        help="Refuse rows whose prompts have another tool's syntax, such as --ar 16:9.",
    ),
    click.option("--skip-bad-rows", is_flag=True, help="Record bad rows and render the others."),
)

_EXPANSION_OPTIONS = (
    click.option(
        "--grid",
        multiple=True,
        metavar="PARAMETER=X,Y,…",
        help="Render every row with each of these values; may be repeated.",
    ),
    click.option(
        "--variants",
        type=click.Choice(get_args(Variants)),
        default="off",
        show_default=True,
        help="How to read {a|b}, {1..5} and __wildcards__ in prompts.",
    ),
    click.option(
        "--draws",
        type=int,
        callback=whole(1),
        default=1,
        metavar="N",
        help="Prompts to draw for each row with --variants sample.",
    ),
    click.option(
        "--wildcards",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        metavar="DIR",
        help="The folder of the wildcard files.",
    ),
)


class ManifestCommand(click.Command):
    """A command whose help has a section of its own for the parameters of images."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        options: list[tuple[str, str]] = []
        parameters: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                is_parameter = (param.name or "").startswith(_PREFIX)
                (parameters if is_parameter else options).append(record)
        with formatter.section("Options"):
            formatter.write_dl(options)
        with formatter.section("Defaults for rows"):
            formatter.write_dl(parameters)


def submission_options(
    command: Callable[Concatenate[Invocation, SubmissionRequest, P], T],
) -> Callable[Concatenate[Invocation, P], T]:
    """Add the options to a command, and pass them to it as one `SubmissionRequest`."""

    def called(invocation: Invocation, *args: P.args, **kwargs: P.kwargs) -> T:
        out = kwargs.get("out")
        settings = Settings.for_home(out) if isinstance(out, Path) else invocation.settings
        request = _request(kwargs, settings)
        return command(invocation, request, *args, **kwargs)

    decorated: Any = update_wrapper(called, command)
    for option in reversed((*_JOB_OPTIONS, *_EXPANSION_OPTIONS, *_parameter_options())):
        decorated = option(decorated)
    result: Callable[Concatenate[Invocation, P], T] = click.argument(
        "manifest", nargs=-1, metavar="[MANIFEST]..."
    )(decorated)
    return result


def _parameter_options() -> Sequence[Callable[[Any], Any]]:
    # Values stay text here. `Parameters` reads cells, flags and files by the same rules.
    return tuple(
        click.option(
            flag.name,
            _PREFIX + name,
            # An empty negative prompt replaces the model's own.
            type=AnyText() if name == "negative_prompt" else None,
            metavar=flag.value,
            help=flag.help,
        )
        for name, flag in PARAMETER_FLAGS.items()
    )


def _request(options: dict[str, Any], settings: Settings) -> SubmissionRequest:
    """Remove the shared options from a command's options, and return them as a request."""
    _check_expansion(options)
    prompts = _prompts(options)
    parameters = {name: options.pop(_PREFIX + name) for name in PARAMETER_FLAGS}
    asked = SubmissionOptions(
        manifests=options.pop("manifest"),
        prompts=prompts,
        parameters=parameters,
        defaults_file=options.pop("defaults"),
        seed=options.pop("job_seed"),
        columns=_columns(options.pop("mapping")),
        **{name: options.pop(name) for name in _AS_THEY_ARE},
    )
    return asked.request(settings)


def _prompts(options: dict[str, Any]) -> tuple[str, ...]:
    """The prompts in the place of a manifest; a usage error if there are both, or neither."""
    prompts: tuple[str, ...] = options.pop("prompts")
    if not prompts:
        if not options["manifest"]:
            raise click.UsageError("Missing argument 'MANIFEST' (or --prompt TEXT).")
        return ()
    if options["manifest"]:
        raise click.UsageError("give a MANIFEST or --prompt, not both")
    for name, flag in (("mapping", "--map"), ("extra", "--extra"), ("manifest_format", "--format")):
        if options[name]:
            raise click.UsageError(f"{flag} has no effect with --prompt, which is no file")
    return prompts


def _check_expansion(options: Mapping[str, Any]) -> None:
    """Raise a usage error for options of variants that would have no effect."""
    for name, ways in (("wildcards", ("all", "sample")), ("draws", ("sample",))):
        source = click.get_current_context().get_parameter_source(name)
        if options["variants"] not in ways and source not in {ParameterSource.DEFAULT, None}:
            wanted = " or ".join(ways)
            raise click.UsageError(f"--{name} has no effect without --variants {wanted}")


def _columns(mapping: Sequence[str]) -> dict[str, str]:
    columns = {}
    for text in mapping:
        # A column's name may contain "=", a field's name never does.
        column, equals, field = text.rpartition("=")
        if not equals or not column or not field:
            raise click.BadParameter(f"{text!r}; expected COLUMN=FIELD", param_hint="--map")
        columns[column] = field
    return columns
