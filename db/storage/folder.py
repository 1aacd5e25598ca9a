"""A store in a local or mounted folder.

An object is first written to `.incoming/` and made durable with fsync. Then link(2) gives it its
name, which fails if the name is taken. So exactly one writer wins, and a reader never sees half an
object.

Every step starts from an open folder and follows no links. So a symbolic link that somebody has
put into the store leads nowhere.
"""

import errno
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from imagemill.db.errors import ObjectConflict, ObjectMissing, StorageDenied, StorageError
from imagemill.db.storage import StoredObject
from imagemill.db.storage.keys import checked_key, is_key
from imagemill.db.storage.probe import probe_name, try_out

INCOMING = ".incoming"
"""The folder of unfinished objects. No key can begin with a dot."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_REFUSED = {
    errno.EACCES: "permission denied; make the folder writable for this user",
    errno.EPERM: "not permitted; make the folder writable for this user",
    errno.EROFS: "the file system is read-only",
    errno.ELOOP: "a symbolic link; a store holds only plain files and folders",
    errno.ENOTDIR: "not a folder, or a symbolic link",
}


class FolderStorage:
    """Objects as files below `root`. The first `put` or `probe` creates `root`.

    Reading methods raise `StorageDenied` if `root` does not exist: a network share that is not
    mounted must not look like an empty store.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._links = True
        self._links_lock = threading.Lock()

    @property
    def uri(self) -> str:
        """The folder's absolute path."""
        return str(self._root)

    def put(self, key: str, body: bytes, *, media_type: str) -> bool:
        """See `Storage.put`. `media_type` is not stored: the file's suffix tells it."""
        del media_type
        with self._errors("write", checked_key(key)):
            self._root.mkdir(parents=True, exist_ok=True)
            with self._open_root() as root, _open_parent(root, key, create=True) as parent:
                created = self._place(root, parent, key, body)
                # Also if another process created it: its machine may fail before its own fsync.
                os.fsync(parent)
                return created

    def get(self, key: str) -> bytes:
        """See `Storage.get`."""
        with self._errors("read", checked_key(key)):
            try:
                with self._open_root() as root, _open_parent(root, key) as parent:
                    return _read(parent, _name(key))
            except FileNotFoundError:
                raise ObjectMissing(f"no object {key} in {self.uri}") from None

    def stat(self, key: str) -> StoredObject | None:
        """See `Storage.stat`."""
        with self._errors("look up", checked_key(key)):
            try:
                with self._open_root() as root, _open_parent(root, key) as parent:
                    info = os.stat(_name(key), dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return None
            return _stored(key, info) if stat.S_ISREG(info.st_mode) else None

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """See `Storage.list`. Files that no key can name are skipped."""
        with self._errors("list", prefix), self._open_root() as root:
            for key, info in _walk(root, ""):
                if key.startswith(prefix) and is_key(key):
                    yield _stored(key, info)

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        with (
            self._errors("delete", checked_key(key)),
            self._open_root() as root,
            suppress(FileNotFoundError),
            _open_parent(root, key) as parent,
        ):
            os.unlink(_name(key), dir_fd=parent)

    def leftovers(self) -> Iterator[StoredObject]:
        """See `Storage.leftovers`: the files in `.incoming/`."""
        with (
            self._errors("list", INCOMING),
            self._open_root() as root,
            suppress(FileNotFoundError),
            _open_folder(INCOMING, root) as incoming,
        ):
            for name, info in _walk(incoming, ""):
                yield _stored(f"{INCOMING}/{name}", info)

    def discard(self, leftover: StoredObject) -> None:
        """See `Storage.discard`."""
        folder, _, name = leftover.key.partition("/")
        if folder != INCOMING or not is_key(name):
            raise StorageError(f"{leftover.key!r} is not a leftover of {self.uri}")
        with (
            self._errors("delete", leftover.key),
            self._open_root() as root,
            suppress(FileNotFoundError),
            _open_folder(INCOMING, root) as incoming,
        ):
            os.unlink(name, dir_fd=incoming)

    def object_uri(self, key: str) -> str:
        """See `Storage.object_uri`: a `file://` URL."""
        return (self._root / checked_key(key)).as_uri()

    def probe(self) -> str:
        """See `Storage.probe`. The line says how objects are created and how much space is left."""
        try_out(self, probe_name())
        how = (
            "an object is created once, by hard link"
            if self._links
            else "no hard links here: an object is created by looking first, then renaming"
        )
        with self._errors("measure", ""):
            space = os.statvfs(self._root)
        return f"folder {self.uri}: {how}; {space.f_bavail * space.f_frsize / 1e9:.1f} GB free"

    @contextmanager
    def _open_root(self) -> Iterator[int]:
        """The root's descriptor. The root itself may be a link, because the operator chose it."""
        try:
            root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StorageDenied(
                f"{self.uri} does not exist: is it mounted, and is IMAGEMILL_STORAGE_URL right?"
            ) from None
        try:
            yield root
        finally:
            os.close(root)

    def _place(self, root: int, parent: int, key: str, body: bytes) -> bool:
        """Write `body` to a temporary file, then claim the name; return whether we got it."""
        with _open_folder(INCOMING, root, create=True) as incoming:
            temporary = f"{os.getpid()}-{secrets.token_hex(8)}.tmp"
            try:
                _write(incoming, temporary, body)
                if self._claim(incoming, temporary, parent, _name(key)):
                    return True
                self._compare(parent, key, body)
                return False
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=incoming)

    def _claim(self, incoming: int, temporary: str, parent: int, name: str) -> bool:
        if self._links:
            try:
                os.link(
                    temporary,
                    name,
                    src_dir_fd=incoming,
                    dst_dir_fd=parent,
                    follow_symlinks=False,
                )
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._links = False
            else:
                return True
        # exFAT and some network file systems have no hard links. Here two processes may both find
        # the name free. That does no harm: the key contains the content's hash, so both rename a
        # file with the same bytes.
        with self._links_lock:
            try:
                os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                os.rename(temporary, name, src_dir_fd=incoming, dst_dir_fd=parent)
                return True
            return False

    def _compare(self, parent: int, key: str, body: bytes) -> None:
        there = _read(parent, _name(key))
        if len(there) != len(body) or _sha256(there) != _sha256(body):
            raise ObjectConflict(
                f"another content is stored under {key} in {self.uri}: "
                f"{len(there)} bytes there, {len(body)} bytes to be stored"
            )

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            number = error.errno or 0
            said = _REFUSED.get(number) or os.strerror(number)
            kind = StorageDenied if number in _REFUSED else StorageError
            raise kind(f"can't {action} {key} in {self.uri}: {said}") from error


def _name(key: str) -> str:
    return key.rpartition("/")[2]


@contextmanager
def _open_folder(name: str, above: int, *, create: bool = False) -> Iterator[int]:
    """A folder's descriptor, never through a symbolic link. `create` makes it, with an fsync."""
    if create:
        try:
            os.mkdir(name, dir_fd=above)
            os.fsync(above)
        except FileExistsError:
            pass
    folder = os.open(name, _FOLDER, dir_fd=above)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _open_parent(root: int, key: str, *, create: bool = False) -> Iterator[int]:
    """The descriptor of the folder that holds an object's file, opened step by step from root."""
    first, slash, rest = key.partition("/")
    if not slash:
        yield root
        return
    with (
        _open_folder(first, root, create=create) as folder,
        _open_parent(folder, rest, create=create) as parent,
    ):
        yield parent


def _write(folder: int, name: str, body: bytes) -> None:
    with os.fdopen(os.open(name, _CREATE, 0o644, dir_fd=folder), "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


def _read(folder: int, name: str) -> bytes:
    with os.fdopen(os.open(name, _READ, dir_fd=folder), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a plain file", name)
        return file.read()


def _walk(folder: int, above: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every plain file below `folder` with its path. Links and dotted names are skipped."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            with suppress(FileNotFoundError):  # deleted while we walk
                if entry.is_dir(follow_symlinks=False):
                    with _open_folder(entry.name, folder) as below:
                        yield from _walk(below, f"{above}{entry.name}/")
                elif entry.is_file(follow_symlinks=False):
                    yield above + entry.name, entry.stat(follow_symlinks=False)


def _stored(key: str, info: os.stat_result) -> StoredObject:
    modified = datetime.fromtimestamp(info.st_mtime, UTC)
    return StoredObject(key=key, size=info.st_size, modified=modified)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
