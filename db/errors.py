"""All errors that imagemill raises on purpose.

    ImagemillError
    ├── UsageError                the request can't be fulfilled                 exit 2
    │   ├── SettingsError         a setting is missing or wrong
    │   ├── ManifestError         a manifest has bad rows; carries every problem
    │   ├── UnknownJob            no job by that id or name
    │   ├── UnknownImage          no image by that id
    │   ├── RecordError           a file holds no readable imagemill record
    │   ├── ModelError            a model is not registered, not found, or not safe to load
    │   └── SchemaError           the database is at a schema this version does not know
    ├── ServiceError              something outside did not answer                exit 3
    │   ├── DatabaseError
    │   │   └── PermissionDenied  the database's role may not do this
    │   ├── BrokerError
    │   ├── HubError
    │   └── StorageError
    │       ├── StorageDenied     wrong credentials or a missing bucket; never retried
    │       ├── ObjectMissing     no object under that key
    │       ├── ObjectConflict    another content is stored under that key
    │       └── BadKey            not a name an object may have
    ├── ScoreError                a picture could not be judged by a scorer
    └── RenderError               an image could not be rendered
        ├── OutOfMemory           the device's memory is too small for this batch
        ├── BadPixels             the model gave NaN where a picture should be
        ├── InputImageError       an init image or mask can't be used
        ├── OverLimit             over this worker's limits, or not possible to draw
        └── RowMismatch           a row's request key or group is not its specification's

`code` never changes: it is stored with an attempt and printed with `--json`. `retryable` says
whether the same request may succeed later although nobody changes anything.
"""

from typing import ClassVar


class ImagemillError(Exception):
    """imagemill could not do what was asked."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)

    @property
    def message(self) -> str:
        """One readable line: what happened and what to do."""
        return str(self)


class UsageError(ImagemillError):
    """The request can't be fulfilled."""

    code = "usage"
    exit_code = 2


class SettingsError(UsageError):
    """A setting is missing or wrong."""

    code = "settings"


class ManifestError(UsageError):
    """A manifest has bad rows; `problems` prints one line each."""

    code = "manifest"

    def __init__(self, message: str | None = None, *, problems: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class UnknownJob(UsageError):
    """There is no such job."""

    code = "unknown_job"


class UnknownImage(UsageError):
    """There is no such image."""

    code = "unknown_image"


class RecordError(UsageError):
    """A file holds no imagemill record, or is damaged."""

    code = "record"


class ModelError(UsageError):
    """A model is not registered, not found, or not safe to load."""

    code = "model"


class SchemaError(UsageError):
    """The database is at a schema that this version does not know; run `imagemill migrate`."""

    code = "schema"


class ServiceError(ImagemillError):
    """A service did not answer."""

    code = "service"
    retryable = True
    exit_code = 3


class DatabaseError(ServiceError):
    """The database did not answer."""

    code = "database"


class PermissionDenied(DatabaseError):
    """The database's role may not do this."""

    code = "permission_denied"
    retryable = False


class BrokerError(ServiceError):
    """The broker did not answer."""

    code = "broker"


class HubError(ServiceError):
    """The Hugging Face Hub did not answer."""

    code = "hub"


class StorageError(ServiceError):
    """The object store did not answer."""

    code = "storage"


class StorageDenied(StorageError):
    """The object store refused: wrong credentials, or the bucket does not exist."""

    code = "storage_denied"
    retryable = False


class ObjectMissing(StorageError):
    """There is no object under this key."""

    code = "object_missing"
    retryable = False


class ObjectConflict(StorageError):
    """Another content is stored under this key."""

    code = "object_conflict"
    retryable = False


class BadKey(StorageError):
    """This is not a name that an object may have."""

    code = "bad_key"
    retryable = False


class ScoreError(ImagemillError):
    """A picture could not be judged by a scorer."""

    code = "score"


class RenderError(ImagemillError):
    """An image could not be rendered."""

    code = "render"
    retryable = True


class OutOfMemory(RenderError):
    """The device's memory is too small for this batch."""

    code = "out_of_memory"


class BadPixels(RenderError):
    """The model gave NaN where a picture should be."""

    code = "bad_pixels"


class InputImageError(RenderError):
    """An init image or a mask can't be used."""

    code = "input_image"
    retryable = False


class OverLimit(RenderError):
    """An image is over this worker's limits, or asks for something that can't be drawn."""

    code = "over_limit"
    retryable = False


class RowMismatch(RenderError):
    """An image's request key or group is not that of its specification: the row was changed."""

    code = "row_mismatch"
    retryable = False


def system_reason(error: BaseException) -> str:
    """What the system says of a file that is named beside it; else `first_line`."""
    return getattr(error, "strerror", None) or first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type's name if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
