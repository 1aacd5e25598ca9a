"""`models add` and `models list`: new models for the registry file, and what each model can do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from imagemill.db.errors import ModelError
from imagemill.db.models.registry import ModelEntry, load_registry
from imagemill.db.models.registry_file import add_model, check_name
from imagemill.db.real_paths import real_path
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.models.abilities import Abilities, abilities_of
from imagemill.scheduler_jobs.models.inspection import FoundModel, inspect_file, inspect_source
from imagemill.scheduler_jobs.models.sources import open_source


@click.command()
@click.argument("name")
@click.argument("source")
@click.option(
    "--revision",
    metavar="NAME",
    help="Branch, tag or commit on the Hub (default: its main branch).",
)
@click.option(
    "--variant",
    metavar="NAME",
    help="The precision of the files, such as fp16 (default: the plain one).",
)
@click.option(
    "--like",
    metavar="MODEL",
    help="For one .safetensors file: a folder or registered model built alike.",
)
@output.json_option
@pass_invocation
def add(
    invocation: Invocation,
    *,
    name: str,
    source: str,
    revision: str | None,
    variant: str | None,
    like: str | None,
    as_json: bool,
) -> None:
    """Look at a model and write its entry into the registry file.

    SOURCE is a Hub id (owner/name), a folder in diffusers' layout, or one .safetensors file. Only
    configurations and the headers of weights are read. A Hub id is pinned to the commit that the
    Hub names. The entry has the defaults that people use for the family; change them as you like.

    \b
    Example:
      imagemill models add flux black-forest-labs/FLUX.1-schnell
    """
    settings = invocation.settings
    file = check_name(name, settings)
    found = _look_at(source, revision, variant, like, invocation)
    text = add_model(name, found.table, settings)
    if as_json:
        output.emit({"model": name, "registry": str(file), **_document(found)})
        return
    family = "a family that imagemill has no row for" if not found.family else found.family.title
    output.line(f"{name}: {family}, kind {found.kind}, {output.size(found.bytes)} of weights")
    output.table(
        (
            Column(title="PART", whole=True),
            Column(title="CLASS", whole=True),
            Column(title="SIZE", right=True),
        ),
        (
            (part.component, part.class_name, output.size(part.bytes) if part.bytes else "")
            for part in found.parts
        ),
    )
    output.line()
    for line in text.splitlines():
        output.line(line)
    output.line(f"written to {settings.models}")
    if found.other_variants:
        output.line(f"also there: --variant {' or '.join(found.other_variants)}")
    if found.family is None:
        output.line("its defaults are guesses: look at the model's page")
    if "revision" in found.table:
        output.line(f"next: imagemill models pull {name}")


@click.command("list")
@output.json_option
@pass_invocation
def list_models(invocation: Invocation, as_json: bool) -> None:
    """Say what each registered model can do, and how large it is.

    Its ways of working, LoRA, the speed settings that its modules lack, its default size. Of a
    model that is not on this machine, only what the registry says.

    \b
    Example:
      imagemill models list
    """
    registry = load_registry(invocation.settings)
    found = [_abilities(entry) for entry in registry.models.values()]
    if as_json:
        output.emit({"models": found})
        return
    output.table(
        (
            Column(title="MODEL", whole=True),
            Column(title="FAMILY", whole=True),
            Column(title="WAYS", whole=True, elastic=True),
            Column(title="LORA"),
            Column(title="NO SPEED SETTING", whole=True, elastic=True),
            Column(title="SIZE"),
            Column(title="WEIGHTS", right=True),
            Column(title="LICENCE", whole=True),
        ),
        (
            (
                model["model"],
                model["family"] or model["pipeline"] or "",
                ", ".join(model["ways"]),
                model["lora"],
                ", ".join(model["speed_missing"]),
                "" if model["width"] is None else f"{model['width']}x{model['height']}",
                "" if model["bytes"] is None else output.size(model["bytes"]),
                model["license"],
            )
            for model in found
        ),
    )
    for model in found:
        if model["problem"]:
            output.line(model["problem"], error=True)


def _look_at(
    text: str,
    revision: str | None,
    variant: str | None,
    like: str | None,
    invocation: Invocation,
) -> FoundModel:
    settings = invocation.settings
    base = Path() if settings.models is None else real_path(settings.models).parent
    file = Path(text).expanduser()
    if file.suffix == ".safetensors" and file.is_file():
        if revision is not None or variant is not None:
            raise ModelError(f"{text}: one file has no revision and no variant")
        known = settings if base.joinpath(settings.models or "").exists() else None
        registry = load_registry(known or settings.model_copy(update={"models": None}))
        return inspect_file(file, like=like, registry=registry, base=base)
    if like is not None:
        raise ModelError(f"{text}: --like is for one .safetensors file")
    with open_source(text, revision=revision) as source:
        return inspect_source(source, variant=variant, base=base)


def _document(found: FoundModel) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "pipeline": found.pipeline,
        "family": None if found.family is None else found.family.name,
        "bytes": found.bytes,
        "parts": [
            {"part": part.component, "class": part.class_name, "bytes": part.bytes}
            for part in found.parts
        ],
        "other_variants": list(found.other_variants),
        "entry": dict(found.table),
    }


def _abilities(entry: ModelEntry) -> Mapping[str, Any]:
    """A model's line for people and programs; `problem` says why little is known of it."""
    able: Abilities | None = None
    problem = None
    try:
        able = abilities_of(entry)
    except ModelError as error:
        problem = error.message
    width = entry.defaults.get("width") or (None if able is None else able.size[0])
    height = entry.defaults.get("height") or (None if able is None else able.size[1])
    return {
        "model": entry.name,
        "kind": entry.kind,
        "family": None if able is None else able.family,
        "pipeline": None if able is None else able.pipeline,
        "ways": [] if able is None else list(able.ways),
        "lora": "unknown" if able is None else able.lora,
        "speed": [] if able is None else list(able.speed),
        "speed_missing": [] if able is None else list(able.speed_missing),
        "width": width,
        "height": height,
        "bytes": None if able is None else sum(able.bytes.values()),
        "parts": {} if able is None else dict(able.bytes),
        "license": entry.license,
        "problem": problem,
    }
