"""The states of jobs, images and requests, who moves them on, and the outcomes of images.

Each transition is one SQL statement in `db.queries` that names the state it starts from. The
tables' CHECK constraints use the same words. `docs/states.md` has the diagram.
"""

from enum import StrEnum


class JobState(StrEnum):
    """The state of a job."""

    LOADING = "loading"
    """A producer is inserting rows. If it is killed, the next submission of the same manifest goes
    on. Nothing is rendered before the job is open."""
    OPEN = "open"
    """Its images may be claimed. `finish_jobs` finishes it when no image is ready or leased."""
    PAUSED = "paused"
    """Like open, but nothing is claimed until `imagemill resume`."""
    FINISHED = "finished"
    """Every image is done, dead or cancelled. `retry` and `verify --requeue` open it again."""
    CANCELLED = "cancelled"
    """Ended by `imagemill cancel`. Images that were not done were cancelled too."""
    REJECTED = "rejected"
    """The manifest had bad rows, so nothing was queued. Terminal."""


class ImageState(StrEnum):
    """The state of an image. The sum over all five is always the number of requested images."""

    READY = "ready"
    """May be claimed by a shift, once `not_before` has passed."""
    LEASED = "leased"
    """Held by the shift in `shift_id`. The shift moves it to done, dead or back to ready. If the
    shift's lease ends, the rescuer moves it."""
    DONE = "done"
    """Has an object. Terminal until `retry` or `verify --requeue`."""
    DEAD = "dead"
    """Failed for good, with `error_code` and `error_message`. Terminal until `retry`."""
    CANCELLED = "cancelled"
    """Its job was cancelled before it was done."""


class Outcome(StrEnum):
    """The quality of a done image's picture. It is a column, not a state."""

    OK = "ok"
    TRUNCATED_PROMPT = "truncated_prompt"
    """The prompt was longer than the text encoder's window. The part that was cut is recorded."""
    NAN = "nan"
    """The model gave NaN, also in fp32. The pixels are black."""
    BLANK = "blank"
    """All pixels have the same colour."""


class ApiState(StrEnum):
    """The state of what was asked for over HTTP, in OpenAI's words for batches."""

    VALIDATING = "validating"
    """Recorded. A server reads its lines and loads its job; after a crash the next one does."""
    FAILED = "failed"
    """Nothing of it could be loaded; `errors` say why. Terminal."""
    IN_PROGRESS = "in_progress"
    """Its job is loaded, and workers render it. A server ends it when no image is pending."""
    COMPLETED = "completed"
    """No image of it is pending. Terminal."""
    CANCELLING = "cancelling"
    """Somebody cancelled it; what workers hold is let go within a heartbeat."""
    CANCELLED = "cancelled"
    """Cancelled, and no image of it is pending. Terminal."""
    EXPIRED = "expired"
    """Its time was over before all of it was done; the rest was cancelled. Terminal."""


TERMINAL = frozenset({ImageState.DONE, ImageState.DEAD, ImageState.CANCELLED})
