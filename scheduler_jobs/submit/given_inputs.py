"""The pictures that flags name: any local file, or an image that was rendered.

A manifest may come from anywhere, so its rows may name only files of the inputs folder. A flag is
typed by the person who submits, who may read what that person may read. What it names is known by
the hash of its bytes from here on, so another file under the same name is another job.
"""

import hashlib
import re
from contextlib import closing
from pathlib import Path

from imagemill.db.database import Database
from imagemill.db.engines import sqlite_file
from imagemill.db.errors import DatabaseError, InputImageError, ObjectMissing, UsageError
from imagemill.db.queries.pictures.objects import object_key_of_image
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.db.storage.inputs import MAX_INPUT_BYTES

_IMAGE = re.compile(r"image:([1-9][0-9]{0,17})")
_ELSEWHERE = re.compile(r"s3://.*|[0-9a-f]{64}")
"""Names that the planner resolves, as it does those of rows."""


def take_input(flag: str, name: str, settings: Settings) -> tuple[str, bytes | None]:
    """What a flag names, as its SHA-256 and its bytes; a `UsageError` if there is no such picture.

    `image:37` is an image of the database, everything else a file; first as a path from where
    the person stands, then in the inputs folder. The bytes are None where the planner finds them.
    """
    image = _IMAGE.fullmatch(name)
    if image is not None:
        body = _rendered(flag, int(image[1]), settings)
    elif _ELSEWHERE.fullmatch(name):
        return name, None
    elif not name or "://" in name:
        raise UsageError(f"{flag} {name!r}: not a file; fetch it first, and name the file")
    else:
        path = Path(name).expanduser()
        if settings.inputs_folder is not None and not path.exists():
            return name, None
        body = _file(flag, path)
    _check(flag, name, body, settings)
    return hashlib.sha256(body).hexdigest(), body


def _check(flag: str, name: str, body: bytes, settings: Settings) -> None:
    """Raise `UsageError` for a file that is no picture, or none that a worker reads."""
    from imagemill.db.input_pictures import check_picture  # noqa: PLC0415  # 0.1 s, for Pillow

    try:
        check_picture(body, max_pixels=settings.max_pixels)
    except InputImageError as error:
        raise UsageError(f"{flag} {name}: {error.message}") from None


def _file(flag: str, path: Path) -> bytes:
    try:
        if not path.exists():
            raise UsageError(f"{flag} {path}: there is no such file")
        if not path.is_file():
            raise UsageError(f"{flag} {path}: it is not a file")
        if path.stat().st_size > MAX_INPUT_BYTES:
            raise UsageError(f"{flag} {path}: larger than {MAX_INPUT_BYTES:,} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{flag} {path}: can't be read: {reason}") from None


def _rendered(flag: str, image_id: int, settings: Settings) -> bytes:
    """The file of an image that is done."""
    file = sqlite_file(settings.database_url.get_secret_value())
    if file is not None and not file.is_file():
        raise UsageError(f"{flag} image:{image_id}: there is no database {file}")
    with closing(Database.from_settings(settings)) as database:
        try:
            with database.reading() as session:
                key = object_key_of_image(session, image_id)
        except DatabaseError as error:
            raise UsageError(f"{flag} image:{image_id}: {error.message}") from None
    if key is None:
        raise UsageError(f"{flag} image:{image_id}: no image {image_id} is done")
    try:
        return open_storage(settings).get(key)
    except ObjectMissing:
        raise UsageError(f"{flag} image:{image_id}: its file {key} is missing") from None
