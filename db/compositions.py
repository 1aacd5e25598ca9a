"""A composition: who shared a micro-batch, by slot.

Where a device can't keep pixels independent of the batch, they depend on this besides the request
and the environment: with it, they can be rendered again bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from imagemill.db.specs import ImageSpec, canonical_json, sha256_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Composition:
    """The images in the first of `slots` slots, in their order; the other slots were empty.

    `image_ids` name an image of each request, whose row says what was asked for.
    """

    slots: int
    request_keys: tuple[str, ...]
    image_ids: tuple[int, ...]

    @classmethod
    def of(cls, images: Sequence[tuple[int, ImageSpec]], *, slots: int) -> "Composition":
        """The composition of a micro-batch of these images: ids and specifications, by slot."""
        return cls(
            slots=slots,
            request_keys=tuple(spec.request_key() for _, spec in images),
            image_ids=tuple(image_id for image_id, _ in images),
        )

    def digest(self) -> str:
        """SHA-256 (hex) of what pixels can depend on: requests and slots, not whose images."""
        document = {"slots": self.slots, "request_keys": list(self.request_keys)}
        return sha256_of(canonical_json(document))
