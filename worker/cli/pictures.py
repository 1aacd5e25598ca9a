"""`imagemill roundtrip`. torch is imported only when it runs."""

import json
from pathlib import Path

import click

from imagemill.db.errors import InputImageError, UsageError
from imagemill.db.input_pictures import read_picture_file
from imagemill.db.models.registry import load_registry
from imagemill.db.process.whole_file import whole_file
from imagemill.db.samplers.names import find_sampler
from imagemill.db.seeds import SEED_LIMIT
from imagemill.db.settings import Settings
from imagemill.worker.cli.output_files import check_place

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@click.command()
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--model",
    "name",
    metavar="NAME",
    help="The registered model (default: the setting `default_model`).",
)
@click.option(
    "--sampler",
    metavar="NAME",
    help="The sampler whose schedule gives the noise (default: the model's).",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=15,
    show_default=True,
    metavar="N",
    help="Denoising steps.",
)
@click.option(
    "--start-step",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="The step whose noise is added; 0 is the noisiest.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, SEED_LIMIT - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="The noise's seed.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the three pictures beside each other into this file: .png, .jpg or .webp.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead, as the last line."
)
def roundtrip(
    picture: Path,
    *,
    name: str | None,
    sampler: str | None,
    steps: int,
    start_step: int,
    seed: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Send a picture through a model's autoencoder, as it is and with noise.

    Prints how much of it is left (PSNR). The output file shows the original, the decoded picture,
    and the decoded picture with the noise of a variation that starts at --start-step.

    \b
    Example:
      imagemill roundtrip picture.png --steps 15 --start-step 10 -o strip.png
    """
    if output is not None:
        check_place(output)
        _check_strip(output, picture)
    settings = Settings.load()
    entry = load_registry(settings).find(name or settings.default_model)
    # What is wrong was said before the seconds that torch takes.
    from imagemill.worker.models.loader import load_model  # noqa: PLC0415  # as above
    from imagemill.worker.reproducibility.roundtrip import round_trip  # noqa: PLC0415  # as above

    try:
        original = read_picture_file(picture, max_pixels=settings.max_pixels)
    except InputImageError as error:
        raise UsageError(f"{picture}: {error}") from None
    model = load_model(entry, settings=settings)
    result = round_trip(
        model,
        original,
        width=int(entry.defaults.get("width", original.width)),
        height=int(entry.defaults.get("height", original.height)),
        sampler=_canonical(sampler or entry.defaults.get("sampler", "ddim")),
        steps=steps,
        start_step=start_step,
        seed=seed,
    )
    if output is not None:
        with whole_file(output) as file:
            result.strip().save(file, _FORMATS[output.suffix.lower()])
    document = result.document()
    if as_json:
        written = None if output is None else str(output)
        click.echo(json.dumps({"model": entry.name, **document, "output": written}))
        return
    channels, height, width = document["latents"]
    click.echo(f"latents: {channels} channels of {width}x{height}")
    click.echo(f"decoded: {_decibels(document['decoded_psnr'])}")
    click.echo(
        f"with the noise of step {start_step} of {steps} (timestep {document['timestep']:g}): "
        f"{_decibels(document['noised_psnr'])}"
    )


def _check_strip(output: Path, picture: Path) -> None:
    """Raise `UsageError` for a file that the pictures can't be written into, or must not be."""
    if output.suffix.lower() not in _FORMATS:
        raise UsageError(f"{output}: pictures can be written as {', '.join(_FORMATS)}")
    if output.exists() and output.samefile(picture):
        raise UsageError(f"{output}: this is the picture itself; name another file")


def _canonical(text: str) -> str:
    sampler = find_sampler(text)
    if sampler is None:
        raise click.BadParameter(f"{text!r}; `imagemill samplers` lists them")
    return sampler.name


def _decibels(value: float | None) -> str:
    return "identical" if value is None else f"PSNR {value:.1f} dB"
