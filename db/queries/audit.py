"""Checks every promise that SQL can check, counted again from scratch.

The simulation, the chaos harness and other tests call `audit` to find violations; no command does.
The promises (I1-I8) are those of `docs/states.md`. It reads whole tables.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import Select, and_, case, exists, func, or_, select, union_all
from sqlalchemy.orm import Session

from imagemill.db.queries.images import in_state
from imagemill.db.states import TERMINAL, ImageState, JobState
from imagemill.db.tables import Attempt, Image, Job, Object, Row, Shift, Tally

AT_MOST = 100
"""How many violations of one kind are listed."""

Query: TypeAlias = "Select[*tuple[Any, ...]]"

_OPENED = (JobState.OPEN, JobState.PAUSED, JobState.FINISHED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """A broken promise: which one (`I1`-`I8`), of what (`image 7`), and what is wrong."""

    rule: str
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject} {self.message}"


def audit(session: Session) -> list[Violation]:
    """Every violation, up to `AT_MOST` of a kind; empty if the database is sound."""
    return [
        Violation(rule=rule, subject=f"{noun} {row[0]}", message=message.format(*row))
        for rule, noun, message, query in _checks()
        for row in session.execute(query)
    ]


@cache
def _checks() -> list[tuple[str, str, str, Query]]:
    """The rules with their queries, made once: that takes longer than a small database's audit."""
    return [
        (rule, noun, message, query().limit(AT_MOST)) for rule, noun, message, query in _rules()
    ]


def _rules() -> Iterator[tuple[str, str, str, Callable[[], Query]]]:
    yield "I1", "job", "group {1}: {3} more {2} images in its tallies than in truth", _miscounted
    yield "I1", "row", "has images missing between its samples", _gaps
    yield "I1", "row", "has neither images nor a problem", _empty_rows
    yield "I1", "image", "belongs to a rejected job", _of_rejected_jobs
    yield "I1", "image", "is of job {1}, its row of job {2}", _of_another_job
    yield "I2", "image", "is done with the object of another request", _foreign_objects
    yield "I2", "image", "is {1} where its object is {2}", _foreign_outcomes
    yield "I2", "image", "is done, but nobody rendered it and it was not known before", _unearned
    yield "I4", "image", "is leased by shift {1}, which ended", _left_behind
    yield "I4", "image", "is leased, but its job never opened", _leased_too_early
    yield "I5", "image", "is {1} with {2} terminal events in generation {3}", _terminal_events
    yield "I5", "image", "is in generation {1}, opened by {2} operator actions", _generations
    yield "I5", "image", "has {1} failures alone, its history {2}", _failures
    yield "I5", "image", "failed in this generation, but may be rendered with others", _unsuspected
    yield "I5", "image", "is cancelled, its job {1}", _cancelled_alone
    yield "I7", "job", "is finished with {1} images to do", _finished_early
    yield "I8", "image", "is dead and does not say why", _silent_deaths


def _miscounted() -> Query:
    counted = union_all(
        select(Tally.job_id, Tally.group_id, Tally.state, Tally.delta.label("n")),
        select(Image.job_id, Image.group_id, Image.state, (-func.count()).label("n")).group_by(
            Image.job_id, Image.group_id, Image.state
        ),
    ).subquery()
    place = (counted.c.job_id, counted.c.group_id, counted.c.state)
    total = func.sum(counted.c.n)
    return select(*place, total).group_by(*place).having(total != 0)


def _gaps() -> Query:
    return (
        select(Image.row_id)
        .group_by(Image.row_id)
        .having(func.count() != func.max(Image.sample_index) + 1)
    )


def _empty_rows() -> Query:
    return (
        select(Row.id)
        .join(Job, Job.id == Row.job_id)
        .where(
            Job.state.in_(_OPENED),
            Row.problem.is_(None),
            ~exists().where(Image.row_id == Row.id),
        )
    )


def _of_rejected_jobs() -> Query:
    return select(Image.id).join(Job, Job.id == Image.job_id).where(Job.state == JobState.REJECTED)


def _of_another_job() -> Query:
    return (
        select(Image.id, Image.job_id, Row.job_id)
        .join(Row, Row.id == Image.row_id)
        .where(Row.job_id != Image.job_id)
    )


def _foreign_objects() -> Query:
    return (
        select(Image.id)
        .join(Object, Object.id == Image.object_id)
        .where(Object.request_key != Image.request_key)
    )


def _foreign_outcomes() -> Query:
    return (
        select(Image.id, Image.outcome, Object.outcome)
        .join(Object, Object.id == Image.object_id)
        .where(Object.outcome != Image.outcome)
    )


def _unearned() -> Query:
    """Done without an event, though its object came after its job had opened."""
    return (
        select(Image.id)
        .join(Object, Object.id == Image.object_id)
        .join(Job, Job.id == Image.job_id)
        .where(
            in_state(ImageState.DONE),
            or_(Image.generation > 1, Object.created_at > Job.opened_at),
            ~_happened("done"),
        )
    )


def _left_behind() -> Query:
    return (
        select(Image.id, Shift.id)
        .join(Shift, Shift.id == Image.shift_id)
        .where(in_state(ImageState.LEASED), Shift.ended_at.is_not(None))
    )


def _leased_too_early() -> Query:
    early = (JobState.LOADING, JobState.REJECTED)
    return (
        select(Image.id)
        .join(Job, Job.id == Image.job_id)
        .where(in_state(ImageState.LEASED), Job.state.in_(early))
    )


def _terminal_events() -> Query:
    """A terminal image has its terminal event exactly once; any other image has none.

    An image that was done when it was inserted has none either. `_unearned` checks those.
    """
    events = func.count(Attempt.id)
    fitting = func.coalesce(func.sum(case((Attempt.event == Image.state, 1), else_=0)), 0)
    expected = case((Image.state.in_(list(TERMINAL)), 1), else_=0)
    return (
        select(Image.id, Image.state, events, Image.generation)
        .outerjoin(
            Attempt,
            and_(
                Attempt.image_id == Image.id,
                Attempt.generation == Image.generation,
                Attempt.event.in_(list(TERMINAL)),
            ),
        )
        .group_by(Image.id, Image.state, Image.generation)
        .having(
            or_(
                events != fitting,
                and_(events != expected, or_(events > 0, Image.state != ImageState.DONE)),
            )
        )
    )


def _generations() -> Query:
    opened = func.count(Attempt.id)
    return (
        select(Image.id, Image.generation, opened)
        .outerjoin(
            Attempt,
            and_(Attempt.image_id == Image.id, Attempt.event.in_(("retried", "requeued"))),
        )
        .group_by(Image.id, Image.generation)
        .having(opened != Image.generation - 1)
    )


def _failures() -> Query:
    alone = func.count(Attempt.id)
    return (
        select(Image.id, Image.failures, alone)
        .outerjoin(
            Attempt,
            and_(
                Attempt.image_id == Image.id,
                Attempt.generation == Image.generation,
                Attempt.event.in_(("failed", "lost", "dead")),
                Attempt.solo,
            ),
        )
        .group_by(Image.id, Image.failures)
        .having(alone != Image.failures)
    )


def _unsuspected() -> Query:
    return select(Image.id).where(
        in_state(ImageState.READY),
        Image.suspect.is_(False),
        or_(_happened("failed"), _happened("lost")),
    )


def _cancelled_alone() -> Query:
    return (
        select(Image.id, Job.state)
        .join(Job, Job.id == Image.job_id)
        .where(in_state(ImageState.CANCELLED), Job.state != JobState.CANCELLED)
    )


def _finished_early() -> Query:
    pending = Image.state.in_((ImageState.READY, ImageState.LEASED))
    return (
        select(Job.id, func.count())
        .join(Image, Image.job_id == Job.id)
        .where(Job.state == JobState.FINISHED, pending)
        .group_by(Job.id)
    )


def _silent_deaths() -> Query:
    return select(Image.id).where(
        in_state(ImageState.DEAD),
        or_(
            func.coalesce(Image.error_code, "") == "",
            func.coalesce(Image.error_message, "") == "",
        ),
    )


def _happened(event: str) -> Any:
    return exists().where(
        Attempt.image_id == Image.id,
        Attempt.generation == Image.generation,
        Attempt.event == event,
    )
