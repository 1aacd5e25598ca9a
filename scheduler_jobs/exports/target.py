"""Where an export is written: a folder, or a bucket below a prefix. Every file is whole or absent.

Unlike a store, a target holds files under any readable name, and an export may be written over
what is left of itself.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from imagemill.db.errors import StorageError, UsageError
from imagemill.db.settings import Settings
from imagemill.db.utf8 import is_utf8

UNFINISHED = ".unfinished-"
"""How the names of files begin that are being written; nothing reads them."""

_OF_A_PLACE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}
    | {errno.EEXIST, errno.ELOOP}
)
"""Of these the folder that was named is the cause, and not the disk."""

_S3 = "s3://"
_CHUNK_BYTES = 1 << 20


class Target(Protocol):
    """A place for the files of an export. Names are relative and use `/`."""

    @property
    def uri(self) -> str:
        """The place as it was named."""

    def names(self) -> frozenset[str]:
        """Every file that is there now."""

    def read(self, name: str) -> bytes | None:
        """A whole file, None if there is none."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file that is there, in pieces that fit into memory."""

    def write(self, name: str, body: bytes) -> None:
        """Write a file, in place of one that is there."""

    def create(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A context manager that gives a binary file; the name holds it once the block ends.

        If the block raises, the name stays as it was.
        """

    def clear(self) -> None:
        """Remove every file: of an export that can't be made after all."""


def open_target(place: str, settings: Settings, *, option: str = "--to") -> Target:
    """The target at a path or at `s3://bucket/prefix`. A folder is created with its first file.

    A `UsageError` for another address names the `option` that gave it.
    """
    if not place.startswith(_S3):
        if "://" in place:
            raise UsageError(f"{option} {place!r}: expected a folder, or s3://bucket/prefix")
        if not is_utf8(place):
            raise UsageError(f"{option} {place!a}: a folder for an export needs UTF-8 names")
        return FolderTarget(Path(place).expanduser())
    bucket, _, prefix = place.removeprefix(_S3).partition("/")
    if not bucket:
        raise UsageError(f"{option} {place!r}: expected s3://bucket/prefix")
    # boto3 takes a fifth of a second to import, which nobody with a folder should wait for.
    from imagemill.scheduler_jobs.exports.bucket_target import BucketTarget  # noqa: PLC0415

    return BucketTarget(bucket, prefix.strip("/"), settings)


class FolderTarget:
    """Files below a local folder. A file gets its name by a rename, once it is complete."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._was_there = self._root.exists()
        self._made: set[str] = set()

    @property
    def uri(self) -> str:
        """The folder's absolute path."""
        return str(self._root)

    def names(self) -> frozenset[str]:
        """See `Target.names`."""
        if self._root.exists() and not self._root.is_dir():
            raise UsageError(f"--to {self._root}: not a folder")
        found = set()
        for folder, _, files in os.walk(self._root):
            inside = os.path.relpath(folder, self._root)
            found |= {
                name if inside == "." else f"{inside}/{name}"
                for name in files
                if not name.startswith(UNFINISHED)
            }
        return frozenset(found)

    def read(self, name: str) -> bytes | None:
        """See `Target.read`."""
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("read", name, error) from error

    def chunks(self, name: str) -> Iterator[bytes]:
        """See `Target.chunks`."""
        try:
            with (self._root / name).open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise self._failed("read", name, error) from error

    def write(self, name: str, body: bytes) -> None:
        """See `Target.write`."""
        place = self._root / name
        unfinished = place.with_name(f"{UNFINISHED}{os.getpid()}")
        try:
            self._make_folder(place.parent)
            unfinished.write_bytes(body)
            unfinished.replace(place)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise self._failed("write", name, error) from error

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """See `Target.create`. The file is on the disk before it gets its name."""
        place = self._root / name
        # More than one file may be open in a folder, so each has a name of its own until then.
        unfinished = place.with_name(f"{UNFINISHED}{place.name}"[:200])
        try:
            self._make_folder(place.parent)
            with unfinished.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(place)
        except OSError as error:
            raise self._failed("write", name, error) from error
        finally:
            unfinished.unlink(missing_ok=True)

    def clear(self) -> None:
        """See `Target.clear`. A folder that was there before stays, empty."""
        for folder, _, files in os.walk(self._root, topdown=False):
            place = Path(folder)
            try:
                for name in files:
                    (place / name).unlink()
                if place != self._root or not self._was_there:
                    place.rmdir()
            except OSError as error:
                raise self._failed("remove", os.path.relpath(place, self._root), error) from error

    def _make_folder(self, folder: Path) -> None:
        if str(folder) not in self._made:
            folder.mkdir(parents=True, exist_ok=True)
            self._made.add(str(folder))

    def _failed(self, action: str, name: str, error: OSError) -> UsageError | StorageError:
        said = f"can't {action} {name}: {error.strerror or error}"
        # Once something is written, a usage error would take it back: `run` clears the target.
        if error.errno in _OF_A_PLACE and not self._made and action != "remove":
            return UsageError(f"--to {self.uri}: {said}; name a folder that you may write to")
        return StorageError(f"{self.uri}: {said}")
