"""The outbox of notifications: written with an event, claimed, and delivered or given up.

`announce` belongs to the transaction in which the event happens, so that neither can be without
the other. A dispatcher claims what is due for a while and sends it outside of any transaction. If
it dies before it has recorded the result, the claim runs out and somebody sends the same message
again, with the same id: at least once, and a receiver that remembers ids hears it once.
"""

import json
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, func, insert, or_, select, tuple_, update
from sqlalchemy.orm import Session

from imagemill.db.clock import now, seconds_from_now
from imagemill.db.documents import JSON
from imagemill.db.queries.bulk import insert_new
from imagemill.db.queries.labels import find_labels
from imagemill.db.queries.tallies import count_images
from imagemill.db.tables import Job, JobWebhook, Notification
from imagemill.db.urls import origin

Kind = Literal["webhook", "setting", "command"]
"""A job's own webhook; one of the dispatcher's settings; the command of its settings."""

FINISHED, FAILING, STALLED = "job.finished", "job.failing", "job.stalled"
EVENTS = (FINISHED, FAILING, STALLED)

STATES = ("waiting", "sent", "failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Receiver:
    """A receiver of a dispatcher's own settings. `key` identifies it and is no secret."""

    kind: Kind
    key: str
    shown: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Audience:
    """Which events are sent, and who gets them beside the webhooks of the jobs."""

    receivers: tuple[Receiver, ...] = ()
    events: frozenset[str] = frozenset(EVENTS)


NOBODY = Audience()
"""Only the webhooks of the jobs themselves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What is sent: an event as JSON, and what identifies it."""

    message_id: str
    event: str
    job_id: int
    body: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DueNotification:
    """A notification that this process has claimed. `tries` counts the one that begins."""

    id: int
    message: Message
    kind: Kind
    target: str
    shown: str
    tries: int
    claim: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NotificationReport:
    """What people may see of a notification. `due_at` is the next try's, while it waits."""

    id: int = field(metadata={JSON: "notification_id"})
    message_id: str
    event: str
    job_id: int
    job_name: str
    to: str
    state: str
    tries: int
    created_at: datetime
    due_at: datetime | None
    sent_at: datetime | None
    note: str | None


def add_webhooks(session: Session, job_id: int, urls: Iterable[str]) -> None:
    """Send a job's events to these addresses too."""
    rows = [{"job_id": job_id, "url": url} for url in sorted(set(urls))]
    if rows:
        session.execute(insert_new(session, JobWebhook, rows))


def announce(
    session: Session,
    event: str,
    job_ids: Collection[int],
    audience: Audience,
    *,
    more: Mapping[int, Mapping[str, Any]] | None = None,
) -> int:
    """Write an event of these jobs to the outbox; how many notifications that are.

    It belongs to the transaction in which the event happens. `more` has further facts by job.
    """
    if not job_ids or event not in audience.events:
        return 0
    receivers: dict[int, list[Receiver]] = {each: list(audience.receivers) for each in job_ids}
    webhooks = select(JobWebhook).where(JobWebhook.job_id.in_(list(job_ids)))
    for webhook in session.scalars(webhooks.order_by(JobWebhook.job_id, JobWebhook.url)):
        own = Receiver(kind="webhook", key=webhook.url, shown=origin(webhook.url))
        receivers[webhook.job_id].append(own)
    hearing = sorted(job_id for job_id, found in receivers.items() if found)
    if not hearing:
        return 0
    rows = []
    for job_id, body in _bodies(session, event, hearing, more or {}).items():
        message_id = f"msg_{secrets.token_hex(16)}"
        rows += [
            {
                "message_id": message_id,
                "job_id": job_id,
                "event": event,
                "kind": each.kind,
                "target": each.key,
                "shown": each.shown,
                "body": body,
            }
            for each in receivers[job_id]
        ]
    session.execute(insert(Notification), rows)
    return len(rows)


def _bodies(
    session: Session, event: str, job_ids: Collection[int], more: Mapping[int, Mapping[str, Any]]
) -> dict[int, str]:
    """The JSON of an event by job. It has counts and names, and no prompt."""
    at = session.scalars(select(now())).one()
    counts, labels = count_images(session, job_ids), find_labels(session, job_ids)
    jobs = select(Job).where(Job.id.in_(list(job_ids))).order_by(Job.id)
    fresh = session.scalars(jobs.execution_options(populate_existing=True)).all()
    return {
        job.id: json.dumps(
            {
                "type": event,
                "timestamp": at.isoformat(),
                "data": {
                    "job_id": job.id,
                    "job_name": job.name,
                    "state": job.state,
                    "route": job.route,
                    "labels": labels.get(job.id, {}),
                    "requested": counts[job.id].requested,
                    "ready": counts[job.id].ready,
                    "leased": counts[job.id].leased,
                    "done": counts[job.id].done,
                    "dead": counts[job.id].dead,
                    "cancelled": counts[job.id].cancelled,
                    "created_at": job.created_at.isoformat(),
                    "finished_at": job.finished_at and job.finished_at.isoformat(),
                    **more.get(job.id, {}),
                },
            }
        )
        for job in fresh
    }


def _mine(receivers: Collection[Receiver]) -> ColumnElement[bool]:
    """The condition that a dispatcher with these receivers can send a notification."""
    own = [(each.kind, each.key) for each in receivers]
    webhook = Notification.kind == "webhook"
    return or_(webhook, tuple_(Notification.kind, Notification.target).in_(own)) if own else webhook


def is_any_due(session: Session, receivers: Collection[Receiver]) -> bool:
    """Whether `claim_due` would find something. It reads by a partial index and locks nothing."""
    return session.scalars(_due(receivers).limit(1)).first() is not None


def _due(receivers: Collection[Receiver]) -> Any:
    return (
        select(Notification.id)
        .where(Notification.state == "waiting", Notification.due_at <= now(), _mine(receivers))
        .order_by(Notification.due_at)
    )


def claim_due(
    session: Session, receivers: Collection[Receiver], *, limit: int, lease_seconds: float
) -> list[DueNotification]:
    """Claim notifications whose time has come, for `lease_seconds`.

    Nobody else gets them until then. Whoever repeats a claim whose answer was lost gets others.
    """
    chosen = (
        _due(receivers)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("chosen")
        .prefix_with("MATERIALIZED")
    )
    claim = secrets.token_hex(16)
    rows = session.execute(
        update(Notification)
        .where(Notification.id.in_(select(chosen.c.id)))
        .values(claim=claim, due_at=seconds_from_now(lease_seconds), tries=Notification.tries + 1)
        .returning(*Notification.__table__.columns)
    ).all()
    found = [
        DueNotification(
            id=row.id,
            message=Message(
                message_id=row.message_id, event=row.event, job_id=row.job_id, body=row.body
            ),
            kind=row.kind,
            target=row.target,
            shown=row.shown,
            tries=row.tries,
            claim=claim,
        )
        for row in rows
    ]
    return sorted(found, key=lambda each: each.id)


def record_sent(session: Session, due: DueNotification, *, note: str) -> bool:
    """Record that a receiver took a notification; False if the claim is somebody else's by now."""
    return _end_try(session, due, state="sent", sent_at=now(), note=note)


def record_failure(
    session: Session, due: DueNotification, *, note: str, retry_seconds: float | None
) -> bool:
    """Record a failed try; the next is after `retry_seconds`, and there is none for None.

    False if the claim is somebody else's by now.
    """
    if retry_seconds is None:
        return _end_try(session, due, state="failed", note=note)
    return _end_try(
        session, due, state="waiting", due_at=seconds_from_now(retry_seconds), note=note
    )


def _end_try(session: Session, due: DueNotification, **values: Any) -> bool:
    ended = session.execute(
        update(Notification)
        .where(
            Notification.id == due.id,
            Notification.claim == due.claim,
            Notification.state == "waiting",
        )
        .values(claim=None, **values)
        .returning(Notification.id)
    )
    return ended.first() is not None


def retry_notifications(session: Session, ids: Collection[int] | None) -> list[int]:
    """Let failed notifications, or waiting ones, be sent at once, with all tries again.

    Args:
        ids: which; None is every failed one.

    Returns the ids. One that was sent is sent again only if it is named.
    """
    if ids is None:
        which: ColumnElement[bool] = Notification.state == "failed"
    else:
        # One that is being sent at this moment is left to whoever has claimed it.
        free = or_(Notification.claim.is_(None), Notification.due_at <= now())
        which = and_(Notification.id.in_(list(ids)), free)
    rows = session.execute(
        update(Notification)
        .where(which)
        .values(state="waiting", tries=0, claim=None, due_at=now(), sent_at=None)
        .returning(Notification.id)
    )
    return sorted(row.id for row in rows)


def list_notifications(
    session: Session,
    *,
    job_id: int | None = None,
    states: Collection[str] = (),
    limit: int,
    before: int | None = None,
) -> list[NotificationReport]:
    """Notifications, newest first; of one job, in some states, or older than an id."""
    query = select(Notification, Job.name).join(Job, Job.id == Notification.job_id)
    if job_id is not None:
        query = query.where(Notification.job_id == job_id)
    if states:
        query = query.where(Notification.state.in_(list(states)))
    if before is not None:
        query = query.where(Notification.id < before)
    return [
        NotificationReport(
            id=each.id,
            message_id=each.message_id,
            event=each.event,
            job_id=each.job_id,
            job_name=name,
            to=each.shown,
            state=each.state,
            tries=each.tries,
            created_at=each.created_at,
            due_at=each.due_at if each.state == "waiting" else None,
            sent_at=each.sent_at,
            note=each.note,
        )
        for each, name in session.execute(query.order_by(Notification.id.desc()).limit(limit))
    ]


def overdue_seconds(session: Session) -> float:
    """For how long the oldest notification that waits has been due; 0 if none is due."""
    due, at = session.execute(
        select(func.min(Notification.due_at), now()).where(Notification.state == "waiting")
    ).one()
    return 0.0 if due is None else max(0.0, (at - due).total_seconds())


def count_notifications(session: Session) -> dict[str, int]:
    """How many notifications wait, were sent, and failed."""
    rows = session.execute(
        select(Notification.state, func.count(Notification.id)).group_by(Notification.state)
    )
    return dict.fromkeys(STATES, 0) | {state: count for state, count in rows}  # noqa: C416
