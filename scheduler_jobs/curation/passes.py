"""Queues a pass of scorers over finished images. Doing it again adds only what is missing."""

from collections.abc import Iterator, Sequence

from imagemill.db.database import Database
from imagemill.db.queries.work import score_work
from imagemill.db.scorers import ScorerEntry
from imagemill.db.tables import Job
from imagemill.scheduler_jobs.curation.chosen_images import chosen_images

_PAGE = 1024
"""Images that are looked at and queued in one transaction."""


def plan_pass(
    database: Database,
    *,
    job_ids: Sequence[int],
    scorers: Sequence[ScorerEntry],
    where: str | None = None,
    route: str | None = None,
) -> dict[str, int]:
    """Queue the finished images that these scorers have not judged; how many, by scorer.

    `route` is that of the workers that may do it; None is each job's own. An image that a scorer
    failed on is queued again. What was queued and not taken yet is planned anew, so a pass that
    was interrupted while it was queued is completed by the same call.

    Raises `UsageError` if the condition can't be read, or asks for what no image has.
    """
    queued = {scorer.name: 0 for scorer in scorers}
    for job_id in job_ids:
        with database.reading() as session:
            served = route or session.get_one(Job, job_id).route
        pages = list(_pages(database, job_id, where))
        for scorer in scorers:
            _forget(database, job_id, scorer)
            for ids in pages:
                queued[scorer.name] += _plan(database, job_id, served, scorer, ids)
    return queued


def _forget(database: Database, job_id: int, scorer: ScorerEntry) -> None:
    database.run(
        lambda session: score_work.forget_waiting(session, job_id=job_id, scorer=scorer.name)
    )


def _plan(
    database: Database, job_id: int, route: str, scorer: ScorerEntry, image_ids: Sequence[int]
) -> int:
    return database.run(
        lambda session: score_work.plan_work(
            session,
            job_id=job_id,
            route=route,
            scorer=scorer.name,
            version=scorer.version,
            image_ids=image_ids,
        )
    )


def _pages(database: Database, job_id: int, where: str | None) -> Iterator[Sequence[int]]:
    """The ids of the job's finished images that the condition holds for, in pages."""
    with database.reading() as session:
        if where is not None:
            ids = [image["image_id"] for image in chosen_images(session, [job_id], where)]
            yield from (ids[start : start + _PAGE] for start in range(0, len(ids), _PAGE))
            return
        after = 0
        while page := score_work.done_images(session, job_id, after=after, limit=_PAGE):
            yield page
            after = page[-1]
