"""OpenAI-style batches: each line is a request for a picture, with its options in a `body`."""

from imagemill.scheduler_jobs.manifest.raw import JSON

_RENAMED = {"n": "samples"}


def from_batch(row: dict[str, JSON]) -> dict[str, JSON]:
    """The row for a batch's request; any other row is returned unchanged.

    The request's `custom_id` becomes the row's `id`, and the fields of its body become columns.
    """
    body = row.get("body")
    if "custom_id" not in row or not isinstance(body, dict) or "prompt" not in body:
        return row
    found: dict[str, JSON] = {"id": row["custom_id"]}
    found |= {_RENAMED.get(name, name): value for name, value in body.items()}
    return found | {
        name: value
        for name, value in row.items()
        if name not in {"custom_id", "body"} and name not in found
    }
