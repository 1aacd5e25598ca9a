"""Where `imagemill run` puts the readable names of a job's pictures, and how they go with the job.

The names are hard links to stored files, or copies where the disk has no links.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from imagemill.db.database import Database
from imagemill.db.given_settings import OBJECTS_FOLDER
from imagemill.db.queries.jobs.removed_jobs import first_job_id
from imagemill.db.queries.pictures.objects import objects_of_job
from imagemill.db.settings import Settings
from imagemill.db.tables import Object

PICTURES_FOLDER = "pictures"
CONTACT_SHEET = "contact-sheet"
"""The page that `imagemill run` draws of a job, without the job's suffix and `.png`."""

_PAGE = 1000


def job_suffix(database: Database, job_id: int) -> str:
    """The suffix that separates the sheets and pictures of a folder's jobs; the first has none."""
    return "" if first_job(database) == job_id else f"-{job_id}"


def first_job(database: Database) -> int | None:
    """The first job that there ever was, without those that were refused."""
    with database.reading() as session:
        return first_job_id(session)


def remove_names(database: Database, settings: Settings, job_id: int) -> int:
    """Remove the names of a job's pictures in the folder of `imagemill run`; how many went.

    Its contact sheet goes too, which shows the pictures. Of names, only files that are the job's
    pictures go: links to them, and copies with the same bytes. A file of somebody's own stays, and
    so does the folder around it. Does nothing anywhere else.
    """
    store = Path(settings.storage_url)
    if database.file is None or store.name != OBJECTS_FOLDER:
        return 0
    home = database.file.parent
    suffix = job_suffix(database, job_id)
    folder = home / f"{PICTURES_FOLDER}{suffix}"
    if store.absolute() != (home / OBJECTS_FOLDER).absolute():
        return 0
    (home / f"{CONTACT_SHEET}{suffix}.png").unlink(missing_ok=True)
    if not folder.is_dir():
        return 0
    links: set[int] = set()
    contents: set[str] = set()
    for stored in _objects(database, job_id):
        contents.add(stored.sha256)
        with suppress(FileNotFoundError):
            links.add((store / stored.object_key).stat().st_ino)
    names = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    mine = [path for path in names if _is_one_of(path, links, contents)]
    for path in mine:
        path.unlink(missing_ok=True)
    _remove_empty(folder)
    return len(mine)


def _is_one_of(path: Path, links: set[int], contents: set[str]) -> bool:
    info = path.stat()
    if info.st_nlink > 1:
        return info.st_ino in links
    return hashlib.sha256(path.read_bytes()).hexdigest() in contents


def _remove_empty(folder: Path) -> None:
    below = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
    for path in (*below, folder):
        with suppress(OSError):  # it is not empty
            path.rmdir()


def _objects(database: Database, job_id: int) -> Iterator[Object]:
    after = 0
    while True:
        with database.reading() as session:
            page = objects_of_job(session, job_id, limit=_PAGE, after=after)
        if not page:
            return
        yield from (stored for _, stored in page)
        after, _ = page[-1]
