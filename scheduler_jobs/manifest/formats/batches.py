"""OpenAI-style batches: each line is a request for a picture, with its options in a `body`."""

from imagemill.scheduler_jobs.manifest.problems import BadValue, shown
from imagemill.scheduler_jobs.manifest.raw_rows import JSON

_RENAMED = {"n": "samples"}


def from_batch(row: dict[str, JSON]) -> dict[str, JSON]:
    """The row for a batch's request; any other row is returned unchanged.

    The request's `custom_id` becomes the row's `id`, and the fields of its body become columns.

    Raises:
        BadValue: one field is said twice, by the body and beside it, or by two names.
    """
    body = row.get("body")
    if "custom_id" not in row or not isinstance(body, dict) or "prompt" not in body:
        return row
    found: dict[str, JSON] = {"id": row["custom_id"]}
    beside = {name: value for name, value in row.items() if name not in {"custom_id", "body"}}
    for name, value in (*((_RENAMED.get(n, n), v) for n, v in body.items()), *beside.items()):
        if name in found:
            raise BadValue(f"{shown(name)} twice in a request", "each field once")
        found[name] = value
    return found
