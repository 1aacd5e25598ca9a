"""A composition: the images of a micro-batch, by slot.

On some devices pixels depend on the batch. With recorded batches they then depend on three things:
the request, the environment and the composition. All three are stored, so that the pixels can be
rendered again bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from imagemill.db.specs import ImageSpec, canonical_json, sha256_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Composition:
    """The images in the first slots of a batch of `slots` slots; the other slots were empty.

    `request_keys` and `image_ids` are in the order of the slots. An image's row holds the
    specification that was rendered.
    """

    slots: int
    request_keys: tuple[str, ...]
    image_ids: tuple[int, ...]

    @classmethod
    def of(cls, images: Sequence[tuple[int, ImageSpec]], *, slots: int) -> "Composition":
        """The composition of a micro-batch of these images: (id, specification), by slot."""
        return cls(
            slots=slots,
            request_keys=tuple(spec.request_key() for _, spec in images),
            image_ids=tuple(image_id for image_id, _ in images),
        )

    def digest(self) -> str:
        """SHA-256 (hex) of the slots and requests.

        Image ids are left out, because pixels do not depend on them: two jobs with the same
        requests share a composition.
        """
        document = {"slots": self.slots, "request_keys": list(self.request_keys)}
        return sha256_of(canonical_json(document))
