"""Batch image generation on your own GPUs.

    import imagemill

    job = imagemill.run(["a red circle", "a blue star"], "out", samples=4)
    for image in job.images(where="sample_index < 2"):
        image.picture().save(f"{image['row_number']}-{image['sample_index']}.png")

`open` reads what is there, `submit` queues rows for workers, `run` renders them here and now.
Importing this is light: neither torch nor a database driver is loaded until it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagemill.images import MillImage
    from imagemill.jobs import Job
    from imagemill.reader import Mill
    from imagemill.reader import open_mill as open
    from imagemill.submitter import run, submit

__all__ = ["Job", "Mill", "MillImage", "open", "run", "submit"]

_PLACES = {
    "Job": ("jobs", "Job"),
    "Mill": ("reader", "Mill"),
    "MillImage": ("images", "MillImage"),
    "open": ("reader", "open_mill"),
    "run": ("submitter", "run"),
    "submit": ("submitter", "submit"),
}


def __dir__() -> list[str]:
    """What a notebook or a shell offers after `imagemill.`: also names that are not loaded yet."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Load a name's module when the name is asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(f"imagemill.{module}"), attribute)
