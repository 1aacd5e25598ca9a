"""Batch image generation on your own GPUs.

    import imagemill

    with imagemill.open("out") as mill:
        for image in mill.images("latest", where="guidance_scale > 5"):
            image.picture().save(f"{image['row_number']}.png")

Importing this is light: neither torch nor a database driver is loaded until it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagemill.reader import Mill, MillImage
    from imagemill.reader import open_mill as open

__all__ = ["Mill", "MillImage", "open"]

_READER = {"Mill": "Mill", "MillImage": "MillImage", "open": "open_mill"}


def __getattr__(name: str) -> Any:
    """Load the reader when one of its names is asked for."""
    if name not in _READER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from imagemill import reader  # noqa: PLC0415  # see above

    return getattr(reader, _READER[name])
