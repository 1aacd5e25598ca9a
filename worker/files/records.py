"""The record in every file: enough to render the picture again without a database.

It does not name the job that asked for the picture, because several jobs may share the file. Its
JSON is plain ASCII. So every character of a prompt, even NUL, a lone surrogate or a control
character that XML forbids, survives in every kind of file.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt

from imagemill.db.errors import RecordError
from imagemill.db.specs import METADATA_VERSION, ImageSpec
from imagemill.db.states import Outcome

Pixels = npt.NDArray[np.uint8]
"""A picture: (height, width, 3), RGB, uint8."""


@cache
def installed_version() -> str:
    """The version of imagemill that runs here."""
    return metadata.version("imagemill")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """What is known about one rendered picture.

    `environment` is the whole document of the environment that rendered it. `pixels_sha256` is
    the hash of the pixels before encoding. `prompt_cut` is the end of the prompt that the text
    encoder did not read, or None. `metadata_version` is that of the file around the record.
    """

    spec: ImageSpec
    environment: Mapping[str, Any]
    pixels_sha256: str
    outcome: Outcome = Outcome.OK
    prompt_cut: str | None = None
    version: str = field(default_factory=installed_version)
    metadata_version: int = METADATA_VERSION

    @property
    def request_key(self) -> str:
        """The request that the file answers."""
        return self.spec.request_key(metadata_version=self.metadata_version)

    def to_json(self) -> str:
        """One line of ASCII JSON with sorted keys: equal records give equal texts."""
        document = {
            "imagemill": self.version,
            "metadata_version": self.metadata_version,
            "request_key": self.request_key,
            "spec": self.spec.document(),
            "environment": dict(self.environment),
            "pixels_sha256": self.pixels_sha256,
            "outcome": self.outcome.value,
            "prompt_cut": self.prompt_cut,
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "ImageRecord":
        """The record that `to_json` wrote. Raises `RecordError` for any other text.

        The request key is checked against the specification, so a record that somebody has edited
        is refused.
        """
        try:
            document = json.loads(text)
            layout = document["metadata_version"]
            if layout not in range(1, METADATA_VERSION + 1):
                raise RecordError(
                    f"the imagemill record has layout {layout}; "
                    f"this version reads layouts 1 to {METADATA_VERSION}"
                )
            record = cls(
                spec=ImageSpec.from_document(document["spec"]),
                environment=dict(document["environment"]),
                pixels_sha256=document["pixels_sha256"],
                outcome=Outcome(document["outcome"]),
                prompt_cut=document["prompt_cut"],
                version=document["imagemill"],
                metadata_version=int(layout),
            )
            request_key = record.request_key
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise RecordError(f"the imagemill record can't be read ({reason})") from error
        if document.get("request_key") != request_key:
            raise RecordError("the imagemill record was changed: its request key does not match")
        return record


def pixels_sha256(pixels: Pixels) -> str:
    """SHA-256 (hex) of the raw RGB bytes, row by row from the top left.

    The size is not included: width and height are stored beside it everywhere.
    """
    return hashlib.sha256(np.ascontiguousarray(pixels).reshape(-1).data).hexdigest()
