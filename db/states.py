"""The states of jobs and images, what an image's outcome may be, and who moves what.

A transition is one fenced SQL statement in `db.queries`; these enums are the words that the
tables' CHECK constraints and the statements share. `docs/states.md` has the diagram.
"""

from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands."""

    LOADING = "loading"
    """Rows are being inserted by a producer. A killed producer goes on when the manifest is
    submitted again; nothing of it is rendered before it is open."""
    OPEN = "open"
    """Its images may be claimed. `finish_jobs` moves it on when none is ready or leased."""
    PAUSED = "paused"
    """As open, but nothing is claimed until `imagemill resume`."""
    FINISHED = "finished"
    """Every image is done, dead or cancelled. `retry` and `verify --requeue` open it again."""
    CANCELLED = "cancelled"
    """By `imagemill cancel`; images not yet done became cancelled."""
    REJECTED = "rejected"
    """The manifest had bad rows: nothing of it was queued. Terminal."""


class ImageState(StrEnum):
    """Where an image stands. Requested = the sum over all five, always."""

    READY = "ready"
    """May be claimed by a shift, once `not_before` has passed."""
    LEASED = "leased"
    """Held by the shift in `shift_id`. The shift moves it to done or back to ready; when its
    lease ends, the rescuer does."""
    DONE = "done"
    """Has an object. Terminal until `retry` or `verify --requeue`."""
    DEAD = "dead"
    """Failed for good, with `error_code` and `error_message`. Terminal until `retry`."""
    CANCELLED = "cancelled"
    """Its job was cancelled before it was done."""


class Outcome(StrEnum):
    """How good the picture of a done image is: a column, not a state."""

    OK = "ok"
    TRUNCATED_PROMPT = "truncated_prompt"
    """The prompt was longer than the text encoder's window; the part cut is recorded."""
    NAN = "nan"
    """The model gave NaN, also in fp32; the pixels are black."""
    BLANK = "blank"
    """A uniform picture, or the safety checker's blank."""


TERMINAL = frozenset({ImageState.DONE, ImageState.DEAD, ImageState.CANCELLED})
