"""What an export says of itself: a file in the export, by which it is taken up again or refused."""

import json
from collections.abc import Mapping
from typing import Any

from imagemill.db.errors import UsageError
from imagemill.scheduler_jobs.exports.target import Target

RECORD = "imagemill_export.json"
"""In every export, written first, and once more when the export is complete."""

VERSION = 2
"""2 says more of jobs and models, and has the digest of `SHA256SUMS`."""

_OF_THE_END = ("complete", "files")


def begin(target: Target, document: Mapping[str, Any]) -> bool:
    """Claim a target for an export; whether it is complete there already.

    A target that holds anything else is a `UsageError`: an export never mixes with other files.
    """
    found = target.read(RECORD)
    if found is None:
        others = target.names()
        if others:
            raise UsageError(
                f"--to {target.uri}: holds {min(others)!r} and is no export; choose an empty place"
            )
        target.write(RECORD, _bytes({**document, "complete": False}))
        return False
    try:
        there = json.loads(found)
    except ValueError:
        there = {}
    complete = isinstance(there, dict) and there.get("complete")
    if isinstance(there, dict):
        there = {name: value for name, value in there.items() if name not in _OF_THE_END}
    if there != json.loads(_bytes(document)):
        raise UsageError(
            f"--to {target.uri}: holds another export ({_told(there)}); choose another place, "
            "or remove it to export anew"
        )
    return bool(complete)


def finish(target: Target, document: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """Say that the export is complete, and what its files are together."""
    target.write(RECORD, _bytes({**document, "complete": True, "files": dict(files)}))


def _bytes(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def _told(there: Any) -> str:
    if not isinstance(there, dict) or "format" not in there:
        return "of an unknown kind"
    jobs = ", ".join(map(str, there.get("selection", {}).get("jobs", ())))
    return f"{there['format']} of {there.get('images')} images, jobs {jobs}"
