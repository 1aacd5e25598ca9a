"""Where a model comes from: a repository on the Hugging Face Hub, or a path on this machine."""

import re
from pathlib import Path

from imagemill.db.errors import ModelError

_REVISION = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.safetensors)(?<!\.gguf)")


def is_hub_id(source: str) -> bool:
    """Whether a source is a repository on the Hub, not a path on this machine."""
    return not Path(source).is_absolute() and bool(_HUB_ID.fullmatch(source))


def find_source(text: str, base: Path) -> str:
    """A local path made absolute, relative to the folder `base`; a Hub id unchanged."""
    local = base / Path(text).expanduser()
    if local.exists() or not _HUB_ID.fullmatch(text):
        return str(local)
    return text


def check_revision(where: str, source: str, revision: str | None) -> None:
    """Raise `ModelError` unless what comes from the Hub is pinned to one commit."""
    if not is_hub_id(source) or (revision is not None and _REVISION.fullmatch(revision)):
        return
    raise ModelError(
        f"{where}: {source} needs revision = the commit's 40 hex digits, so that "
        "the revision that you checked is the one that is loaded"
    )
