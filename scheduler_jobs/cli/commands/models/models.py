"""`models` and `samplers`: what manifests may name."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from imagemill.db.errors import ModelError
from imagemill.db.models.added_models import AddedEntry
from imagemill.db.models.components import weights_digest
from imagemill.db.models.embeddings import check_embeddings
from imagemill.db.models.entry_checks import check_entry
from imagemill.db.models.registry import ModelEntry, Registry, load_registry
from imagemill.db.samplers.names import OWN, SAMPLERS
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.cli.command_table import commands_below
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column
from imagemill.scheduler_jobs.cli.group import LazyGroup
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.submit.planning.planner import defaults_of


@click.group(cls=LazyGroup, table=commands_below("models"), invoke_without_command=True)
@pass_invocation
@output.json_option
@click.pass_context
def models(ctx: click.Context, invocation: Invocation, as_json: bool) -> None:
    """List the models that manifests may name.

    Those of the registry file (IMAGEMILL_MODELS), and shapes64, which is always there; where
    their weights are, and whether they are on this machine.

    \b
    Example:
      imagemill models
    """
    if ctx.invoked_subcommand is not None:
        return
    settings = invocation.settings
    registry = load_registry(settings)
    found = [_described(entry, registry, settings) for entry in registry.models.values()]
    adapters = [
        {"adapter": a.name, "file": str(a.file), "problem": a.problem}
        for a in registry.adapters.values()
    ]
    added = {
        "controlnets": [_added(entry) for entry in registry.controlnets.values()],
        "ip_adapters": [_added(entry) for entry in registry.ip_adapters.values()],
    }
    if as_json:
        output.emit({"models": found, "adapters": adapters, **added})
        return
    output.table(
        (
            Column(title="MODEL", whole=True),
            Column(title="HERE"),
            Column(title="DIGEST"),
            Column(title="DEFAULTS", elastic=True),
            Column(title="SOURCE", whole=True),
        ),
        (
            (
                model["model"] + (" (default)" if model["default"] else ""),
                "no" if model["problem"] else "yes",
                (model["digest"] or "")[:10],
                _defaults(model["defaults"]),
                model["source"],
            )
            for model in found
        ),
    )
    for model in found:
        if model["problem"]:
            output.line(model["problem"], error=True)
    _print_files("ADAPTER", "FILE", adapters)
    _print_files("CONTROLNET", "SOURCE", added["controlnets"])
    _print_files("IP-ADAPTER", "SOURCE", added["ip_adapters"])


@click.command()
@output.json_option
def samplers(as_json: bool) -> None:
    """List the samplers and all their names.

    A manifest may use any of them: the name, what AUTOMATIC1111 displays, an alias, or the class
    in diffusers.

    \b
    Example:
      imagemill samplers
    """
    if as_json:
        listed = [
            {
                "sampler": sampler.name,
                "display": sampler.display,
                "aliases": sampler.aliases,
                "diffusers_class": sampler.diffusers_class,
                "options": sampler.options,
                "flow": sampler.flow,
            }
            for sampler in (*SAMPLERS, OWN)
        ]
        output.emit({"samplers": listed})
        return
    output.table(
        (
            Column(title="SAMPLER", whole=True),
            Column(title="DISPLAYED AS", whole=True),
            Column(title="ALSO", whole=True),
            Column(title="DIFFUSERS CLASS", whole=True),
        ),
        (
            (sampler.name, sampler.display, ", ".join(sampler.aliases), sampler.diffusers_class)
            for sampler in (*SAMPLERS, OWN)
        ),
    )


def _added(entry: AddedEntry) -> dict[str, Any]:
    """A registered ControlNet or IP-Adapter for people and programs."""
    digest, problem = entry.pinned, None
    try:
        digest = entry.digest
        problem = entry.problem
    except ModelError as error:
        problem = error.message
    return {
        "name": entry.name,
        "source": entry.source,
        "revision": entry.revision,
        "digest": digest,
        "problem": problem,
    }


def _print_files(title: str, place: str, listed: Sequence[Mapping[str, Any]]) -> None:
    """A table of what is registered beside the models, and what is missing of it."""
    if not listed:
        return
    output.line()
    output.table(
        (
            Column(title=title, whole=True),
            Column(title="HERE"),
            Column(title=place, whole=True),
        ),
        (
            (
                each.get("name") or each["adapter"],
                "no" if each["problem"] else "yes",
                each[place.casefold()],
            )
            for each in listed
        ),
    )
    for each in listed:
        if each["problem"]:
            output.line(each["problem"], error=True)


def _described(entry: ModelEntry, registry: Registry, settings: Settings) -> dict[str, Any]:
    """A registered model for people and programs; `problem` says why it is not here."""
    digest, problem = entry.digest, None
    try:
        digest = weights_digest(entry)
        check_embeddings(entry)
        check_entry(entry, registry)
        defaults_of(entry)
    except ModelError as error:
        problem = error.message
    return {
        "model": entry.name,
        "default": entry.name == settings.default_model,
        "source": entry.source or ", ".join({part.source: None for part in entry.parts.values()}),
        "revision": entry.revision,
        "kind": entry.kind,
        "dtype": entry.dtype,
        "digest": digest,
        "defaults": dict(entry.defaults),
        "problem": problem,
    }


def _defaults(defaults: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in defaults.items())
