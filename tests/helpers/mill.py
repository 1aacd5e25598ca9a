"""A database with work in it, and short words for what workers and operators do to it.

Contract tests, the simulation and the benchmarks share it. Each method is one transaction of
`imagemill.db.queries`; nothing here knows SQL, except for turning a lease or a wait into the past.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, update

from imagemill.db.clock import now, seconds_from_now
from imagemill.db.compositions import Composition
from imagemill.db.database import Database
from imagemill.db.queries import tallies
from imagemill.db.queries.audit import Violation, audit
from imagemill.db.queries.images import Failure
from imagemill.db.queries.jobs import job_rows, lifecycle
from imagemill.db.queries.jobs.job_rows import NewRow
from imagemill.db.queries.jobs.lifecycle import NewJob
from imagemill.db.queries.jobs.new_images import NewImages
from imagemill.db.queries.pictures import environments, objects
from imagemill.db.queries.pictures.objects import NewObject
from imagemill.db.queries.work import claims, shifts
from imagemill.db.queries.work.claims import Claimed, RetryPolicy
from imagemill.db.shared_specs import Request
from imagemill.db.specs import ImageSpec
from imagemill.db.states import ImageState, Outcome
from imagemill.db.tables import Attempt, Group, Image, Job, Model, Shift

DIGEST = "a" * 64
POLICY = RetryPolicy(max_failures=3, max_losses=4, retry_seconds=5)
CRASH = Failure(code="render", message="the forward pass raised", retryable=True, solo=False)
CRASH_ALONE = Failure(code="render", message="the forward pass raised", retryable=True, solo=True)
REFUSED = Failure(code="input_image", message="it is no picture", retryable=False, solo=False)


def spec(prompt: str, *, digest: str = DIGEST, width: int = 64, seed: int = 1) -> ImageSpec:
    return ImageSpec(
        model=f"model-{digest[:4]}",
        weights_digest=digest,
        prompt=prompt,
        seed=seed,
        width=width,
        height=64,
        steps=20,
        guidance_scale=5.0,
        sampler="ddim",
    )


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stored(request_key: str, *, content: str = "") -> NewObject:
    """A file for a request; another `content` is another file for the same request."""
    digest = sha(request_key + content)
    return NewObject(
        request_key=request_key,
        object_key=f"{request_key}-{digest}.png",
        uri=f"file:///{request_key}-{digest}.png",
        sha256=digest,
        pixels_sha256=sha(digest),
        size_bytes=1000,
        width=64,
        height=64,
        format="png",
        outcome=Outcome.OK,
        cut=None,
        seconds=0.5,
    )


class Mill:
    """One database, with a worker that is registered already."""

    def __init__(self, database: Database, *, policy: RetryPolicy = POLICY) -> None:
        self.database = database
        self.policy = policy
        self.worker_id = database.run(
            lambda session: shifts.register_worker(
                session, name="w@host", host="host", pid=1, device="cpu", route="default"
            )
        )
        self.environment_id = database.run(
            lambda session: environments.environment_id(
                session, fingerprint=sha("env"), document={}
            )
        )

    # Producers -----------------------------------------------------------------------------

    def load(
        self,
        name: str,
        specs: Iterable[ImageSpec] | Iterable[str],
        *,
        priority: int = 0,
        route: str = "default",
        samples: int = 1,
        opened: bool = True,
        **turn: Any,
    ) -> int:
        """A job with a row for each spec (or prompt) and `samples` images for each row.

        `turn` are further fields of `NewJob`, such as `max_workers`.
        """
        job_id = self.create(name, priority=priority, route=route, **turn)
        wanted = [spec(each) if isinstance(each, str) else each for each in specs]
        self.insert(job_id, wanted, samples=samples)
        if opened:
            self.open(job_id)
        return job_id

    def open(self, job_id: int) -> None:
        self.database.run(lambda session: lifecycle.open_job(session, job_id))

    def create(self, name: str, *, priority: int = 0, route: str = "default", **turn: Any) -> int:
        new = NewJob(
            name=name,
            identity=sha(name),
            manifest=f"{name}.csv",
            manifest_sha256=sha(name),
            defaults={"steps": 20},
            priority=priority,
            route=route,
            **turn,
        )
        job, _ = self.database.run(lambda session: lifecycle.find_or_create(session, new))
        return job.id

    def insert(self, job_id: int, specs: Sequence[ImageSpec], *, samples: int = 1) -> None:
        """One chunk of a job's rows, as a producer inserts it."""

        def chunk(session):
            job = job_rows.lock_loading(session, job_id)
            for digest in sorted({each.weights_digest for each in specs}):
                job_rows.register_model(
                    session, name=f"m-{digest[:4]}", weights_digest=digest, source="-", document={}
                )
            first = job.rows_loaded + 1
            rows = [
                NewRow(number=n, line=n + 1, verbatim=each.prompt, extras={}, key_base=f"id:{n}")
                for n, each in enumerate(specs, first)
            ]
            ids = job_rows.insert_rows(session, job, rows)
            images = NewImages.of(
                (sample, Request.of(each if samples == 1 else _sample(each, sample)))
                for each in specs
                for sample in range(samples)
            )
            row_ids = [row_id for row_id in ids for _ in range(samples)]
            job_rows.insert_images(session, job, images, row_ids=row_ids)
            job.rows_loaded += len(rows)

        self.database.run(chunk)

    # Workers -------------------------------------------------------------------------------

    def worker(self, name: str, *, host: str = "host", **about: Any) -> int:
        """Register another worker process; its id."""
        return self.database.run(
            lambda session: shifts.register_worker(
                session, name=name, host=host, pid=1, device="cpu", route="default", **about
            )
        )

    def shift(self, *, lease_seconds: float = 600, worker_id: int | None = None) -> int:
        return self.database.run(
            lambda session: shifts.start_shift(
                session, worker_id=worker_id or self.worker_id, lease_seconds=lease_seconds
            )
        )

    def renew(self, shift_id: int, *, lease_seconds: float = 600) -> shifts.Orders | None:
        return self.database.run(
            lambda session: shifts.renew(session, shift_id=shift_id, lease_seconds=lease_seconds)
        )

    def end(self, shift_id: int) -> bool:
        return self.database.run(
            lambda session: shifts.end_shift(session, shift_id=shift_id, reason="test")
        )

    def choose(
        self, *, route: str = "default", loaded=(), avoided=(), worker_id: int | None = None
    ) -> claims.GroupChoice | None:
        return self.database.run(
            lambda session: claims.choose_group(
                session, route=route, loaded=loaded, avoided=avoided, worker_id=worker_id
            )
        )

    def claim(
        self, shift_id: int, *, limit: int = 8, group_id: int | None = None, route: str = "default"
    ) -> list[Claimed]:
        def work(session):
            group = group_id
            if group is None:
                shift = session.get(Shift, shift_id)
                who = None if shift is None else shift.worker_id
                choice = claims.choose_group(session, route=route, worker_id=who)
                if choice is None:
                    return []
                group = choice.id
            return claims.claim(
                session, shift_id=shift_id, group_id=group, route=route, limit=limit
            )

        return self.database.run(work)

    def begin(self, shift_id: int, image_ids: Iterable[int]) -> set[int]:
        ids = list(image_ids)
        return self.database.run(
            lambda session: claims.begin(session, shift_id=shift_id, image_ids=ids)
        )

    def end_rendering(self, shift_id: int, image_id: int) -> None:
        self.database.run(
            lambda session: claims.end_rendering(session, shift_id=shift_id, image_id=image_id)
        )

    def fail(self, shift_id: int, image_id: int, failure: Failure = CRASH) -> ImageState | None:
        return self.database.run(
            lambda session: claims.fail(
                session,
                shift_id=shift_id,
                image_id=image_id,
                failure=failure,
                policy=self.policy,
            )
        )

    def give_back(self, shift_id: int, image_ids: Iterable[int] | None = None) -> int:
        ids = None if image_ids is None else list(image_ids)
        return self.database.run(
            lambda session: claims.give_back(session, shift_id=shift_id, image_ids=ids)
        )

    def complete(
        self,
        shift_id: int,
        images: Iterable[Claimed],
        *,
        content: str = "",
        composition: Composition | None = None,
    ) -> int:
        files = [
            replace(stored(image.request_key, content=content), composition=composition)
            for image in images
        ]
        return self.database.run(
            lambda session: objects.complete(
                session, shift_id=shift_id, environment_id=self.environment_id, stored=files
            )
        )

    def finish_known(self, shift_id: int, request_keys: Iterable[str]) -> int:
        keys = list(request_keys)
        return self.database.run(
            lambda session: objects.finish_known(session, shift_id=shift_id, request_keys=keys)
        )

    def rescue(self) -> int:
        return self.database.run(lambda session: shifts.rescue(session, policy=self.policy))

    # Operators -----------------------------------------------------------------------------

    def cancel(self, job_id: int) -> bool:
        return self.database.run(lambda session: lifecycle.cancel(session, job_id))

    def pause(self, job_id: int) -> bool:
        return self.database.run(lambda session: lifecycle.pause(session, job_id))

    def resume(self, job_id: int) -> bool:
        return self.database.run(lambda session: lifecycle.resume(session, job_id))

    def retry(self, job_id: int, codes: Sequence[str] = ()) -> int:
        return self.database.run(lambda session: lifecycle.retry(session, job_id, codes=codes))

    def finish_jobs(self) -> int:
        return self.database.run(lifecycle.finish_jobs)

    def cancel_stragglers(self) -> int:
        return self.database.run(lifecycle.cancel_stragglers)

    def fold(self) -> int:
        return self.database.run(tallies.fold)

    # Time ----------------------------------------------------------------------------------

    def expire(self, shift_id: int) -> None:
        """The shift's lease was over a second ago."""
        past = update(Shift).where(Shift.id == shift_id).values(lease_until=seconds_from_now(-1))
        self.database.run(lambda session: session.execute(past))

    def age(self, seconds: float, *, job_id: int | None = None) -> None:
        """What became done so far (of a job, or of all) became so this many seconds ago."""
        which = (
            select(Image.id) if job_id is None else select(Image.id).where(Image.job_id == job_id)
        )
        past = (
            update(Attempt)
            .where(Attempt.image_id.in_(which), Attempt.event == "done")
            .values(at=seconds_from_now(-seconds))
        )
        self.database.run(lambda session: session.execute(past))

    def wait_out(self) -> None:
        """Every retry is due."""
        due = update(Image).where(Image.not_before.is_not(None)).values(not_before=now())
        self.database.run(lambda session: session.execute(due))

    # What is so ----------------------------------------------------------------------------

    def counts(self, job_id: int) -> tallies.Counts:
        with self.database.reading() as session:
            return tallies.count_images(session, [job_id])[job_id]

    def job(self, job_id: int) -> Job:
        with self.database.reading() as session:
            return session.get_one(Job, job_id)

    def image(self, image_id: int) -> Image:
        with self.database.reading() as session:
            return session.get_one(Image, image_id)

    def images(self, job_id: int) -> list[Image]:
        with self.database.reading() as session:
            return list(
                session.scalars(select(Image).where(Image.job_id == job_id).order_by(Image.id))
            )

    def events(self, image_id: int) -> list[str]:
        """The image's history, oldest first."""
        with self.database.reading() as session:
            query = select(Attempt.event).where(Attempt.image_id == image_id).order_by(Attempt.id)
            return list(session.scalars(query))

    def wait_seconds(self, image_id: int) -> float:
        """How long after its last failure the image may be claimed again."""
        with self.database.reading() as session:
            begin, failed = session.execute(
                select(Image.not_before, func.max(Attempt.at))
                .join(Attempt)
                .where(Image.id == image_id)
                .group_by(Image.id)
            ).one()
        return (begin - failed) / timedelta(seconds=1)

    def group_of(self, digest: str) -> int:
        with self.database.reading() as session:
            return session.scalars(
                select(Group.id).join(Model).where(Model.weights_digest == digest)
            ).one()

    def audit(self) -> list[Violation]:
        with self.database.reading() as session:
            return audit(session)


def _sample(row: ImageSpec, sample: int) -> ImageSpec:
    return spec(row.prompt, digest=row.weights_digest, width=row.width, seed=row.seed + sample)
