"""Images that are to be inserted, with all that is known of them without the database."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imagemill.db.queries import copy_text
from imagemill.db.queries.copy_text import Written
from imagemill.db.queries.images import spec_values
from imagemill.db.shared_specs import Request, SharedSpec
from imagemill.db.tables import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class NewImages:
    """Images to insert, as equally long lists.

    `keys` are a request's keys in every metadata version, the newest first. `group_keys` name the
    group of each image, and `kinds` are the different specifications that they share.
    """

    sample_indexes: Sequence[int] = ()
    requests: Sequence[Request] = ()
    keys: Sequence[tuple[str, ...]] = ()
    group_keys: Sequence[str] = ()
    kinds: Sequence[SharedSpec] = ()
    text: Written | None = None
    """What `columns` says, as text for PostgreSQL."""

    @classmethod
    def of(cls, images: Iterable[tuple[int, Request]]) -> "NewImages":
        """Images given as (sample index, request)."""
        images = list(images)
        requests = [request for _, request in images]
        return cls(
            sample_indexes=[sample for sample, _ in images],
            requests=requests,
            keys=[request.keys() for request in requests],
            group_keys=[request.shared.group_key for request in requests],
            kinds=list({id(request.shared): request.shared for request in requests}.values()),
        )

    def __len__(self) -> int:
        return len(self.requests)

    def written(self, dialect: Any) -> "NewImages":
        """The same with its `text`. There must be some images."""
        columns, shared = self.columns()
        table: Any = Image.__table__
        text = copy_text.write_rows(table, columns, shared=shared, dialect=dialect)
        return replace(self, text=text.kept)

    def columns(self) -> tuple[dict[str, Sequence[Any]], dict[str, Any]]:
        """The values of columns of `images`: those by image, and those that all have in common."""
        columns: dict[str, Sequence[Any]] = {
            "sample_index": self.sample_indexes,
            "prompt": [request.prompt for request in self.requests],
            "seed": [request.seed for request in self.requests],
            "request_key": [newest for newest, *_ in self.keys],
        }
        values = {id(kind): spec_values(kind.example) for kind in self.kinds}
        of_one = {
            name: value
            for name, value in next(iter(values.values())).items()
            if name not in columns
        }
        if len(values) == 1:
            return columns, of_one
        of_each = [values[id(request.shared)] for request in self.requests]
        return columns | {name: [its[name] for its in of_each] for name in of_one}, {}
