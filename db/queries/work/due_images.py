"""What may be claimed now, and how many idle workers to wake where few of them fit."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Subquery, func, select
from sqlalchemy.orm import Session

from imagemill.db.clock import now
from imagemill.db.queries.images import in_state
from imagemill.db.queries.jobs.seats import has_room
from imagemill.db.queries.work.memory_needs import list_too_large
from imagemill.db.queries.work.presence import alive, working
from imagemill.db.queries.work.scopes import SCOPE, WorkerScope, read_scope
from imagemill.db.queries.work.turns import WaitingJob
from imagemill.db.states import ImageState, JobState
from imagemill.db.tables import Group, Image, Job, Model, Tally, Worker


def due_images(session: Session) -> dict[str, int]:
    """How many images are ready in open jobs, by route, without those that nobody can claim yet.

    A group in which every image waits for its next try does not count. To find that out costs one
    look into the index of ready images for each group. Nor does a job with all the workers that
    it may have.
    """
    backlog = _backlog()
    rows = session.execute(
        select(backlog.c.route, func.sum(backlog.c.images))
        .where(_has_claimable(backlog))
        .group_by(backlog.c.route)
    )
    return {route: int(total) for route, total in rows}


def idle_of_mixed_routes(session: Session) -> dict[str, int]:
    """How many workers are idle, by route, where some can claim images of a job and others can't.

    A token reaches any worker of its route. Of a job that needs labels, few tokens would find a
    worker with them only by luck. A route without an idle worker that fits is not there, so that
    nobody is woken for what nobody takes.
    """
    backlog = _backlog(Job.needs != "")
    due = session.execute(
        select(Job.id, Job.route, Job.needs, Group.key, Model.name, Model.weights_digest)
        .join_from(backlog, Job, Job.id == backlog.c.job_id)
        .join(Group, Group.id == backlog.c.group_id)
        .join(Model, Model.id == Group.model_id)
        .where(_has_claimable(backlog))
    ).all()
    if not due:  # the usual case costs one question
        return {}
    idle: dict[str, list[WorkerScope]] = {}
    rows = session.execute(
        select(Worker.route, *SCOPE).where(alive(), ~working(), Worker.draining.is_(False))
    )
    for route, *scope in rows:
        idle.setdefault(route, []).append(read_scope(scope))
    cards = {scope.card for scopes in idle.values() for scope in scopes if scope.card is not None}
    large = {card: list_too_large(session, card) for card in cards}
    found: dict[str, int] = {}
    for job_id, route, needs, key, model, digest in due:
        job = WaitingJob(
            job_id=job_id, priority=0, owner="", weight=1, max_workers=None, needs=needs
        )
        there: Sequence[WorkerScope] = idle.get(route, ())
        fit = sum(
            scope.admits(job, model)
            and (scope.card is None or not {key, digest} & large[scope.card])
            for scope in there
        )
        if 0 < fit < len(there):
            found[route] = len(there)
    return found


def _backlog(*conditions: ColumnElement[bool]) -> Subquery:
    """Ready images of open jobs, by route, job and group, of jobs that may have more workers."""
    ready = func.sum(Tally.delta)
    return (
        select(Job.route, Tally.job_id, Tally.group_id, ready.label("images"))
        .join(Tally, Tally.job_id == Job.id)
        .where(Job.state == JobState.OPEN, Tally.state == ImageState.READY, has_room(), *conditions)
        .group_by(Job.route, Tally.job_id, Tally.group_id)
        .having(ready > 0)
        .subquery()
    )


def _has_claimable(backlog: Subquery) -> ColumnElement[bool]:
    """Whether any image in this line of the backlog can be claimed now."""
    # The time is asked for once. If the clock moved on within the statement, Postgres could not
    # use it as a bound of the index, and would compare every image that waits.
    moment = select(now()).scalar_subquery()
    # The index has four places where a claimable image may stand first. Each gets a look of its
    # own, so that no look reads through the images that wait.
    looks = [
        select(Image.id)
        .where(
            Image.job_id == backlog.c.job_id,
            Image.group_id == backlog.c.group_id,
            in_state(ImageState.READY),
            Image.suspect.is_(suspect),
            Image.not_before.is_(None) if at_once else Image.not_before <= moment,
        )
        .order_by(Image.not_before, Image.id)  # only that index gives this order, as for a claim
        .limit(1)
        .scalar_subquery()
        for suspect in (False, True)
        for at_once in (True, False)
    ]
    return func.coalesce(*looks).is_not(None)
