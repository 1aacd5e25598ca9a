"""The progress of a job: a bar with images/s and remaining time, or a line every few seconds."""

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Self, TextIO

import click

from imagemill.db.queries.fleet.idleness import Idle
from imagemill.db.queries.fleet.reports import ONE_BATCH_SECONDS
from imagemill.db.queries.tallies import Counts
from imagemill.db.states import JobState
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import duration, plural, shortened

if TYPE_CHECKING:
    from rich.progress import Progress

PACE_SECONDS = 60.0
"""The time over which images/s are counted."""

TITLE_CHARACTERS = 24
"""The most characters of a title. In a window of 80 characters the bar needs room too."""

_FIRST_IMAGE = "waiting for the first image"

LINE_SECONDS = 5.0
"""The time between two plain lines if there is no terminal."""


class Pace:
    """Images per second over the last minute; over the last two looks that differ, if slower.

    Loading a model is no rendering: the pace begins with the first batch that is seen to finish.
    Its images finish together, so nothing is known before as many others have finished.
    """

    def __init__(self) -> None:
        self._before: int | None = None
        self._seen: deque[tuple[float, int]] = deque()
        self._now = 0.0
        self._first_batch = 0
        self._known = False

    def add(self, done: int, at: float | None = None) -> None:
        """Note how many images are done now."""
        self._now = time.monotonic() if at is None else at
        if self._before is not None and done != self._before:
            self._note(done, done - self._before)
        self._before = done
        while len(self._seen) > 2 and self._seen[1][0] < self._now - PACE_SECONDS:
            self._seen.popleft()

    def _note(self, done: int, more: int) -> None:
        if not self._seen:
            self._seen.append((self._now, done))
            self._first_batch = more
            return
        begun, first = self._seen[0]
        if len(self._seen) == 1 and self._now - begun < ONE_BATCH_SECONDS:
            self._seen[0] = (begun, done)
            self._first_batch += more
            return
        self._seen.append((self._now, done))
        self._known = self._known or done - first >= self._first_batch

    @property
    def images_per_second(self) -> float | None:
        """The pace; None as long as too little is known."""
        if not self._known or len(self._seen) < 2:
            return None
        (first, before), (_, done) = self._seen[0], self._seen[-1]
        return (
            (done - before) / (self._now - first) if self._now > first and done > before else None
        )


def has_ended(state: JobState, counts: Counts) -> bool:
    """Whether nothing of a job in this state changes any more by itself."""
    if state == JobState.CANCELLED:
        return counts.leased == 0
    return state in {JobState.FINISHED, JobState.REJECTED}


def note_of(state: JobState, counts: Counts, idle: Idle | None) -> str:
    """What there is to say of a job that is watched, beside its counts."""
    if state != JobState.OPEN:
        return state
    if idle is None and not counts.done:
        return _FIRST_IMAGE
    return idle or ""


def facts_of(counts: Counts, pace: Pace, note: str = "") -> str:
    """`3/24 · 1 dead · 2.6 images/s · 8 s left`."""
    facts = [f"{counts.done:,}/{counts.requested:,}"]
    if counts.dead:
        facts.append(f"{counts.dead:,} dead")
    if counts.cancelled:
        facts.append(f"{counts.cancelled:,} cancelled")
    rate = pace.images_per_second
    if rate is not None:
        facts.append(output.rate(rate))
        if counts.pending:
            facts.append(f"{duration(counts.pending / rate)} left")
    elif counts.leased and not counts.done and not note:
        # A worker loads the model and draws the first ones: nothing is known of the time yet.
        note = _FIRST_IMAGE
    if note:
        facts.append(note)
    return " · ".join(facts)


class ProgressView:
    """Shows the progress of a job. A context manager; the last state stays on the screen."""

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        terminal = self._stream.isatty()
        self._title = shortened(title, TITLE_CHARACTERS) if terminal else output.clean(title)
        self._pace = Pace()
        self._next_line = 0.0
        self._shown = ""
        self._counts: Counts | None = None
        self._bar: Progress | None = None
        if terminal:
            self._bar = _bar(self._stream)
            self._task = self._bar.add_task(self._title, total=None, facts="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.live.transient = self._counts is None  # nothing was shown: leave no bar
            self._bar.stop()
        elif self._counts is not None:
            self._line(self._counts, "")

    def stopping(self) -> None:
        """Confirm Ctrl-C, because giving back the images takes a while."""
        text = "stopping (Ctrl-C again: at once)"
        if self._bar is not None:
            self._bar.update(self._task, facts=text)
        else:
            click.echo(text, file=self._stream)

    def update(self, counts: Counts, *, note: str = "") -> None:
        """Show these counts, and a short note (`paused`) if there is one."""
        self._pace.add(counts.done)
        self._counts = counts
        ended = counts.requested - counts.pending
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=ended,
                total=counts.requested or None,
                facts=facts_of(counts, self._pace, note),
            )
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            self._line(counts, note)

    def _line(self, counts: Counts, note: str) -> None:
        text = f"{self._title}: {facts_of(counts, self._pace, note)}"
        if text != self._shown:
            self._shown = text
            click.echo(text, file=self._stream)


def _bar(stream: TextIO) -> "Progress":
    # Where a program reads the output, 0.1 s would be waited for nothing.
    from rich.console import Console  # noqa: PLC0415  # see above
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn  # noqa: PLC0415

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
        console=Console(file=stream, highlight=False),
        expand=True,
    )


class LoadingView:
    """Shows on standard error how many rows of a manifest have been read."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next = time.monotonic() + 1.0
        self._written = False

    def update(self, rows: int) -> None:
        """Show the number of rows; nothing within the first second."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (0.2 if self._terminal else LINE_SECONDS)
        text = f"{plural(rows, 'row')} read"
        click.echo(f"\r{text}" if self._terminal else text, err=True, nl=not self._terminal)
        self._written = True

    def close(self) -> None:
        """End the line that `update` rewrites."""
        if self._written and self._terminal:
            click.echo(err=True)
