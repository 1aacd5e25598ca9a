"""OpenAI-style batches: a request for a picture a line, its options in a `body`."""

from imagemill.scheduler_jobs.manifest.raw import JSON

_RENAMED = {"n": "samples"}


def from_batch(row: dict[str, JSON]) -> dict[str, JSON]:
    """The row that a batch's request stands for; any other row as it is.

    The request's `custom_id` is the row's `id`, and what its body says is said by the row.
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
