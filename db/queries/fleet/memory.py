"""Images that wait because no live worker's card has the memory for them."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from imagemill.db.labels import has_all, labels_of
from imagemill.db.queries.work.memory_needs import Card, find_needs, list_too_large
from imagemill.db.queries.work.presence import alive
from imagemill.db.queries.work.scopes import card_of
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Group, Job, Model, Tally, Worker


@dataclass(frozen=True, kw_only=True, slots=True)
class TooLarge:
    """Images of one model and size for which the cards of all workers that may take them are small.

    `needed_bytes` was measured; None if they only were tried without success. `largest_bytes` is
    the memory of the largest of those cards. A plan has no job yet.
    """

    job_id: int | None = None
    job_name: str | None = None
    model: str
    width: int
    height: int
    images: int
    needed_bytes: int | None
    largest_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SizedGroup:
    """A group whose fit is asked for: its key, the digest of its weights, and how many images."""

    key: str
    digest: str
    model: str
    width: int
    height: int
    images: int


class Fleet:
    """The live workers that are not draining, and what does not fit into their cards."""

    def __init__(self, session: Session) -> None:
        self._session = session
        rows = session.execute(
            select(Worker.route, Worker.labels, Worker.memory_bytes, Worker.tuning).where(
                alive(), Worker.draining.is_(False)
            )
        )
        self._workers = [
            (route, labels_of(labels), card_of(memory_bytes, tuning))
            for route, labels, memory_bytes, tuning in rows
        ]
        self._large: dict[Card, frozenset[str]] = {}

    @property
    def has_cards(self) -> bool:
        """Whether the memory of any worker's card is known."""
        return any(card is not None for _, _, card in self._workers)

    def too_large(
        self, groups: Collection[SizedGroup], *, route: str, needs: Mapping[str, str]
    ) -> Iterator[TooLarge]:
        """Those of the groups that no worker of this route with these labels has the memory for.

        A worker on a CPU, or one that has not loaded anything yet, may have the memory.
        """
        cards: set[Card] = set()
        for place, labels, card in self._workers:
            if place == route and has_all(labels, needs):
                if card is None:
                    return
                cards.add(card)
        if not cards:
            return
        largest = max(cards, key=lambda card: card.memory_bytes)
        for group in groups:
            if all({group.key, group.digest} & self._too_large_for(card) for card in cards):
                yield TooLarge(
                    model=group.model,
                    width=group.width,
                    height=group.height,
                    images=group.images,
                    needed_bytes=self._needed(group, largest),
                    largest_bytes=largest.memory_bytes,
                )

    def _too_large_for(self, card: Card) -> frozenset[str]:
        if card not in self._large:
            self._large[card] = list_too_large(self._session, card)
        return self._large[card]

    def _needed(self, group: SizedGroup, card: Card) -> int | None:
        keys = (group.key, group.digest)
        needs = find_needs(self._session, tuning=card.tuning, keys=keys).values()
        needed = max((need.needed_bytes for need in needs), default=0)
        return needed if needed > card.memory_bytes else None


def list_waiting_for_memory(session: Session, *, job_id: int | None = None) -> list[TooLarge]:
    """Ready images of open jobs, or of this one, that are too large for every worker's card."""
    fleet = Fleet(session)
    if not fleet.has_cards:
        return []
    ready = func.sum(Tally.delta)
    query = (
        select(Job, Group.key, Group.document, Model.name, Model.weights_digest, ready)
        .join_from(Tally, Job, Job.id == Tally.job_id)
        .join(Group, Group.id == Tally.group_id)
        .join(Model, Model.id == Group.model_id)
        .where(Tally.state == ImageState.READY, Job.state == JobState.OPEN)
        .group_by(Job.id, Group.id, Model.id)
        .having(ready > 0)
        .order_by(Job.id, Group.id)
    )
    if job_id is not None:
        query = query.where(Job.id == job_id)
    found: list[TooLarge] = []
    for job, key, document, model, digest, images in session.execute(query):
        group = SizedGroup(
            key=key,
            digest=digest,
            model=model,
            width=document["width"],
            height=document["height"],
            images=int(images),
        )
        found += (
            replace(each, job_id=job.id, job_name=job.name)
            for each in fleet.too_large([group], route=job.route, needs=labels_of(job.needs))
        )
    return found
