"""What a program reads of our values: one name for one thing, in every command.

A field of a dataclass may stand under another name in JSON, where its short name would say too
little beside others (`id` of a job, `row` of an image): `field(metadata={JSON: "job_id"})`.
"""

from dataclasses import fields, is_dataclass
from typing import Any

JSON = "json"
"""The key of a field's metadata that holds its name in JSON."""


def document(value: Any) -> dict[str, Any]:
    """A dataclass as an object of JSON; what it holds is left as it is."""
    assert is_dataclass(value)
    return {each.metadata.get(JSON, each.name): getattr(value, each.name) for each in fields(value)}
