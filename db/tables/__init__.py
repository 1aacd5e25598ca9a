"""The tables. `docs/database.md` says what each is for, `docs/architecture.md` explains the words.

They are imported from here, so that a foreign key always finds the table that it names.

CHECK constraints say which columns each state needs, so a wrong transition fails in the database
and not later in a data set. Many indexes are partial: claims look only at the few images that are
ready or leased, in a table of millions.
"""

from imagemill.db.tables.api import ApiFile, ApiKey, ApiRequest, Upload
from imagemill.db.tables.base import OWNER_CHARACTERS, Base
from imagemill.db.tables.dataset import ExportRow, Score, ScoreFailure, ScoreWork, Store, Tag
from imagemill.db.tables.fleet import BatchSize, FastestPrecision, MemoryNeed, Shift, Worker
from imagemill.db.tables.images import Attempt, CompositionRow, Environment, Image, Object
from imagemill.db.tables.jobs import (
    LABEL_KEY_CHARACTERS,
    LABEL_VALUE_CHARACTERS,
    Group,
    Job,
    JobLabel,
    JobNote,
    JobSeat,
    Model,
    Owner,
    RemovedJob,
    RemovedObject,
    Row,
    Tally,
)
from imagemill.db.tables.notifications import JobWatch, JobWebhook, Notification

__all__ = [
    "LABEL_KEY_CHARACTERS",
    "LABEL_VALUE_CHARACTERS",
    "OWNER_CHARACTERS",
    "ApiFile",
    "ApiKey",
    "ApiRequest",
    "Attempt",
    "Base",
    "BatchSize",
    "CompositionRow",
    "Environment",
    "ExportRow",
    "FastestPrecision",
    "Group",
    "Image",
    "Job",
    "JobLabel",
    "JobNote",
    "JobSeat",
    "JobWatch",
    "JobWebhook",
    "MemoryNeed",
    "Model",
    "Notification",
    "Object",
    "Owner",
    "RemovedJob",
    "RemovedObject",
    "Row",
    "Score",
    "ScoreFailure",
    "ScoreWork",
    "Shift",
    "Store",
    "Tag",
    "Tally",
    "Upload",
    "Worker",
]
