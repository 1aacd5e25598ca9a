"""`watermark`: reads back what `export --watermark` has written."""

from pathlib import Path

import click
from PIL import Image, UnidentifiedImageError

from imagemill.db.errors import RecordError, system_reason
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.exports.marks.watermark import read_watermark


@click.command()
@pass_invocation
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@output.json_option
@click.pass_context
def watermark(
    ctx: click.Context, invocation: Invocation, /, files: tuple[Path, ...], as_json: bool
) -> None:
    """Read the invisible watermark of pictures.

    It is what `imagemill export --watermark TEXT` has written. Ends with 1 if a picture has none.

    \b
    Example:
      imagemill watermark my-set/train/000001-000.jpg
    """
    found = [{"file": str(file), "watermark": _read(file, invocation.settings)} for file in files]
    if as_json:
        output.emit({"watermarks": found})
    else:
        for each in found:
            output.line(f"{each['file']}: {each['watermark'] or 'no watermark'}")
    if any(each["watermark"] is None for each in found):
        ctx.exit(1)


def _read(file: Path, settings: Settings) -> str | None:
    try:
        with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as picture:
            small = picture.width * picture.height <= settings.max_pixels
            found = read_watermark(picture) if small else None
    except UnidentifiedImageError:
        raise RecordError(f"{file}: not a PNG, JPEG or WebP file, or damaged") from None
    except FileNotFoundError:
        raise RecordError(f"{file}: no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecordError(f"{file}: can't be read ({system_reason(error)})") from error
    if not small:
        raise RecordError(
            f"{file}: more than {settings.max_pixels:,} pixels (IMAGEMILL_MAX_PIXELS)"
        )
    return found
