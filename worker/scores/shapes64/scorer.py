"""The scorer `shapes64`: background, colour and kind of the shape, right or wrong."""

from collections.abc import Sequence

from PIL.Image import Image

from imagemill.worker.scores import ScoredImage, Scores
from imagemill.worker.scores.shapes64.captions import understand
from imagemill.worker.scores.shapes64.sight import look

PARTS = ("background", "colour", "kind")


class Shapes64:
    """Compares what a picture shows with what its prompt asks for."""

    yields = (*(f"shapes64_{part}" for part in PARTS), "shapes64_right")

    def score(self, pictures: Sequence[Image], records: Sequence[ScoredImage]) -> Sequence[Scores]:
        """1 or 0 for each part, and the share of the three that is right.

        Raises `ValueError` for a prompt that does not name one kind of shape and two colours.
        """
        return [
            _compared(picture, record.prompt)
            for picture, record in zip(pictures, records, strict=True)
        ]


def _compared(picture: Image, prompt: str) -> Scores:
    wish, seen = understand(prompt), look(picture)
    right = {part: float(getattr(seen, part) == getattr(wish, part)) for part in PARTS}
    scores: dict[str, float | str] = {f"shapes64_{part}": value for part, value in right.items()}
    return scores | {"shapes64_right": sum(right.values()) / len(PARTS)}
