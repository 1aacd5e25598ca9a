"""`imagemill models pull` and `imagemill certify`. torch is imported only when they run."""

import json
import re
import sys
from pathlib import Path

import click

from imagemill.db.models.registry import load_registry
from imagemill.db.models.registry_file import record_digest
from imagemill.db.process.whole_file import whole_file
from imagemill.db.settings import Settings
from imagemill.worker.cli.output_files import check_place

_SIZE = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")

_MOST_TRIED = 1000
"""The most known rows and rounds of `certify`: what more would find, fewer find too."""

_MOST_SLOTS = 512
"""As the setting has it."""

_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead, as the last line."
)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_json_option
def pull(names: tuple[str, ...], as_json: bool) -> None:
    """Fetch registered models from the Hugging Face Hub.

    Each at its pinned revision. A NAME may also be that of a ControlNet or an IP-Adapter of the
    registry; everything that has the name is fetched.

    Only safetensors are fetched. Gated models need HF_TOKEN. The weights' digest is written into
    the registry file; from then on, other weights are refused.

    \b
    Example:
      imagemill models pull sd15
    """
    from imagemill.worker.models.pull import pull as pull_model  # noqa: PLC0415  # huggingface_hub is slow to load
    from imagemill.worker.models.pull import pull_added  # noqa: PLC0415  # as above

    settings = Settings.load()
    registry = load_registry(settings)
    pulled = []
    for name, table in [(each, table) for each in names for table in registry.tables_of(each)]:
        if table == "models":
            model = pull_model(registry.find(name), settings)
        else:
            model = pull_added(getattr(registry, table)[name])
        recorded = settings.models is not None and record_digest(
            settings.models, name, model.weights_digest, table=table
        )
        pulled.append(model)
        if not as_json:
            click.echo(f"{name}: {model.files} files, {model.size / 1e6:,.1f} MB")
            if not recorded:
                click.echo(f'  add to its table: digest = "{model.weights_digest}"')
    if as_json:
        documents = [
            {"model": m.name, "digest": m.weights_digest, "files": m.files, "bytes": m.size}
            for m in pulled
        ]
        click.echo(json.dumps({"models": documents}))


@click.command()
@click.option(
    "--model",
    "name",
    metavar="NAME",
    help="The registered model (default: the setting `default_model`).",
)
@click.option("--size", metavar="WxH", help="Width and height (default: the model's own).")
@click.option(
    "--slots",
    type=click.IntRange(min=1, max=_MOST_SLOTS),
    metavar="N",
    help="B, the images of one forward pass (default: the setting's).",
)
@click.option("--controlnet", metavar="NAME", help="Also with this registered ControlNet.")
@click.option(
    "--rows",
    type=click.IntRange(min=2, max=_MOST_TRIED),
    default=6,
    show_default=True,
    metavar="N",
    help="Known rows to render.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1, max=_MOST_TRIED),
    default=3,
    show_default=True,
    metavar="N",
    help="How often the neighbours are shuffled.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the report into this file, as Markdown.",
)
@_json_option
def certify(
    *,
    name: str | None,
    size: str | None,
    slots: int | None,
    controlnet: str | None,
    rows: int,
    rounds: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Test whether pixels depend on neighbours, slot or order on this device.

    Known rows are rendered in every slot, beside shuffled and NaN neighbours, with and without
    guidance, and also with the model's IP-Adapter. Exit code 1 if the promise does not hold.

    \b
    Example:
      imagemill certify --model shapes64 --output certificate.md
    """
    if output is not None:
        check_place(output)
    settings = Settings.load()
    load_registry(settings).find(name or settings.default_model)
    # What is wrong was said before the seconds that torch takes.
    from imagemill.worker.reproducibility.certificate import HOW_TO_KEEP_BITS, certify_model  # noqa: PLC0415  # loads torch
    from imagemill.worker.reproducibility.certificate_report import NOTHING_PROMISED, report  # noqa: PLC0415  # as above

    titled = certify_model(
        settings,
        name or settings.default_model,
        size=None if size is None else _size(size),
        slots=slots,
        rows=rows,
        rounds=rounds,
        controlnet=controlnet,
    )
    if output is not None:
        with whole_file(output) as file:
            file.write(report(titled).encode())
    holds = all(certificate.holds for _, certificate in titled)
    if as_json:
        written = None if output is None else str(output)
        documents = [{"title": title, **certificate.document()} for title, certificate in titled]
        click.echo(json.dumps({"holds": holds, "verdicts": documents, "output": written}))
    else:
        for title, certificate in titled:
            compared = sum(check.compared for check in certificate.checks)
            different = sum(check.different for check in certificate.checks)
            click.echo(f"{title}: {different} of {compared} images differ")
        if any(not v.holds and v.promise == "independence" for _, v in titled):
            click.echo(HOW_TO_KEEP_BITS)
        if any(v.promise == "nothing" for _, v in titled):
            click.echo(NOTHING_PROMISED)
    sys.exit(0 if holds else 1)


def _size(text: str) -> tuple[int, int]:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text[:60]!r}; allowed: WIDTHxHEIGHT, such as 512x512")
    return int(found[1]), int(found[2])
