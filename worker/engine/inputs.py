"""Init images and masks: fetched by content digest, so that a name can't change what is drawn."""

from collections.abc import Callable

from db.errors import InputImageError

Inputs = Callable[[str], bytes]
"""SHA-256 (hex) of an input file → its bytes; an `InputImageError` if there is none."""


def no_inputs(digest: str) -> bytes:
    """The `Inputs` of an engine that was given none."""
    raise InputImageError(f"input image {digest[:10]}… can't be fetched here")
