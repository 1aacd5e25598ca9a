"""A job in Python: its counts, waiting for it, its images; in a notebook its pictures."""

import html
import time
from typing import TYPE_CHECKING, Any, Self

from imagemill.db.queries.fleet.idleness import Idle, why_idle
from imagemill.db.queries.jobs.lifecycle import find_job, shown_state
from imagemill.db.queries.tallies import Counts, count_images
from imagemill.db.states import JobState, Outcome
from imagemill.scheduler_jobs.cli.display.progress import Pace, facts_of, has_ended, note_of

if TYPE_CHECKING:
    from imagemill.images import Images
    from imagemill.reader import Mill
    from imagemill.scheduler_jobs.local.run import RunResult
    from imagemill.scheduler_jobs.submit.submission import Submission

_LOOK_SECONDS = 1.0
_SHOWN_FAILURES = 3


class Job:
    """A job of a database; what `imagemill.submit` and `imagemill.run` return.

    `submission` says what submitting did, `result` what a run did; each is None for a job that
    came in another way. In a notebook it shows its pictures.
    """

    def __init__(
        self,
        mill: "Mill",
        job_id: int,
        name: str,
        *,
        submission: "Submission | None" = None,
        result: "RunResult | None" = None,
    ) -> None:
        self.mill = mill
        self.id = job_id
        self.name = name
        self.submission = submission
        self.result = result

    @property
    def counts(self) -> Counts:
        """How many images are in which state, now."""
        return self._look()[1]

    @property
    def state(self) -> JobState:
        """The job's state, now."""
        return self._look()[0]

    def wait(self, *, seconds: float | None = None, progress: bool = True) -> Self:
        """Wait until the job has ended, and show its progress; return the job.

        Raises:
            TimeoutError: it has not ended after so many seconds; it goes on.
        """
        from imagemill.notebook import progress as showing  # noqa: PLC0415  # for who waits

        until = None if seconds is None else time.monotonic() + seconds
        with showing(self.name, shown=progress) as show:
            while True:
                state, counts, idle = self._look()
                show(counts, note_of(state, counts, idle))
                if has_ended(state, counts):
                    return self
                if until is not None and time.monotonic() >= until:
                    raise TimeoutError(f"job {self.id} has not ended: {counts.pending:,} to render")
                time.sleep(_LOOK_SECONDS)

    def images(self, **options: Any) -> "Images":
        """The finished images, as `Mill.images` takes them."""
        return self.mill.images(self.id, **options)

    def close(self) -> None:
        """Close the database; the job can't be asked any more."""
        self.mill.close()

    def __repr__(self) -> str:
        return f"<job {self.id} ({self.name}): {self._facts()}>"

    def _repr_html_(self) -> str:
        from imagemill.notebook import bar_html, pictures_html  # noqa: PLC0415  # for notebooks

        counts = self.counts
        bar = bar_html(f"job {self.id} ({self.name})", counts, self._facts())
        pictures = pictures_html(self.images(outcomes=list(Outcome)), total=counts.done)
        return f"{bar}{self._failures()}<div style='height:8px'></div>{pictures}"

    def _facts(self) -> str:
        state, counts, _ = self._look()
        return facts_of(counts, Pace(), state if state != JobState.OPEN else "")

    def _failures(self) -> str:
        """The first reasons of dead images, as HTML."""
        rows = self.mill.query(
            "SELECT row_number, error_code, error_message FROM dataset_failures "  # noqa: S608 - numbers
            f"WHERE job_id = {self.id} ORDER BY row_number LIMIT {_SHOWN_FAILURES}"
        )
        return "".join(
            f"<div style='font:12px/1.4 system-ui,sans-serif;color:#d0453e'>row {row['row_number']}"
            f": {html.escape(str(row['error_code']))}: "
            f"{html.escape(str(row['error_message'])[:200])}</div>"
            for row in rows
        )

    def _look(self) -> tuple[JobState, Counts, Idle | None]:
        with self.mill.reading() as session:
            counts = count_images(session, [self.id])[self.id]
            job = find_job(session, str(self.id))
            return shown_state(job, counts), counts, why_idle(session, job, counts)
