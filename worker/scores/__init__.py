"""Scorers: what judges finished pictures, with or without a model.

A scorer of your own is a class like this, named by an entry point in the group
`imagemill.scorers` of your package:

    class Brightness:
        yields = ("brightness",)

        def score(self, pictures, records):
            return [{"brightness": ImageStat.Stat(each.convert("L")).mean[0]} for each in pictures]
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from PIL.Image import Image

from imagemill.db.queries.work.score_work import ScoredImage

__all__ = ["ScoredImage", "Scorer", "Scores"]

Scores = Mapping[str, float | str]
"""Scores of one picture by name: finite numbers, or texts such as hashes and captions."""


class Scorer(Protocol):
    """Judges pictures. It is made once in a process, without arguments, and used in one thread.

    Its name and version are those of its entry (`db/scorers.py`).
    """

    yields: Sequence[str]
    """The names of its scores: small letters, digits and `_`; each is a column in conditions."""

    def score(
        self, pictures: Sequence[Image], records: Sequence[ScoredImage]
    ) -> Sequence[Scores | Exception]:
        """The scores of each picture, in order; a score that it can't give is left out.

        An exception in their place is recorded as that picture's failure.

        Pictures are RGB. `records` say what was asked for: prompt, seed, model, the row's own
        columns. After an exception that it raises, each picture is judged alone, and the failure
        of the picture that causes it is recorded. A `ServiceError` says that a server is away: all
        pictures wait for it.
        """
