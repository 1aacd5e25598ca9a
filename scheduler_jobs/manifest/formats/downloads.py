"""Files that a failed download leaves instead of a text file. Each line would be a prompt."""

from collections.abc import Mapping
from types import MappingProxyType

from imagemill.scheduler_jobs.manifest.problems import Broken

_PAGE = ("an HTML page", "the file itself, as a browser saves it")
_LEFT: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "<!doctype html": _PAGE,
        "<html": _PAGE,
        "<?xml": ("an XML document", "a manifest, as docs/manifests.md lists them"),
        "version https://git-lfs": ("Git LFS's pointer to a file", "the file: git lfs pull"),
    }
)


def check_is_the_file(text: str) -> None:
    """Raise `Broken` if a text begins like a page, an XML answer or a pointer to the file."""
    start = text[:1000].lstrip().casefold()
    for beginning, (found, allowed) in _LEFT.items():
        if start.startswith(beginning):
            raise Broken(found, allowed, line=1)
