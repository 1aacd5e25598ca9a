"""`imagemill models pull`."""

import json

import click

from db.registry import load_registry
from db.settings import Settings


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pull(names: tuple[str, ...], as_json: bool) -> None:
    """Fetch registered models from the Hugging Face Hub, at their pinned revisions.

    Only safetensors. Gated models need HF_TOKEN. The weights' digest is written into the
    registry file, and weights that are not it are refused from then on.

    Example: imagemill models pull sd15
    """
    from worker.pull import pull as pull_model  # noqa: PLC0415  # huggingface_hub is slow to load
    from worker.pull import record_digest  # noqa: PLC0415  # as above

    settings = Settings.load()
    registry = load_registry(settings)
    pulled = []
    for name in names:
        model = pull_model(registry.find(name), settings)
        recorded = settings.models is not None and record_digest(
            settings.models, name, model.weights_digest
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
