"""The init images and masks that a manifest names. They come from allowed places only.

A name is the hash of a file that the store has, a path inside the inputs folder, or an `s3://`
address in the configured bucket. Nothing else is opened, and no URL is fetched. The files are kept
in the store by their hash. Each is looked at before: what is no picture that a worker reads is
refused here. A file that is named by its hash was looked at when it was stored.
"""

import hashlib
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from imagemill.db.errors import InputImageError, ObjectMissing
from imagemill.db.real_paths import real_path
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.db.storage.factory import open_storage
from imagemill.db.storage.inputs import MAX_INPUT_BYTES, input_key, store_input
from imagemill.db.storage.keys import is_key
from imagemill.scheduler_jobs.manifest.problems import BadValue

_KEYS = "letters, digits, '.', '_' and '-', with '/' between the segments"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class InputFiles:
    """Resolves names to hashes. With `keep`, also puts the files into the store.

    `given` are pictures that flags name, by their hashes: they may not be in the store yet. `used`
    is called with each hash before its file is stored or looked up.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        keep: bool,
        given: Mapping[str, bytes] | None = None,
        used: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folder = settings.inputs_folder
        self._settings = settings
        self._keep = keep
        self._given = given or {}
        self._used = used
        self._opened: Storage | None = None
        self._digests: dict[str, str] = {}

    def digest(self, name: str) -> str:
        """The SHA-256 (hex) of the file that `name` means. `BadValue` if it can't be used."""
        if name not in self._digests:
            self._digests[name] = self._resolve(name)
        return self._digests[name]

    @property
    def _storage(self) -> Storage:
        if self._opened is None:
            self._opened = open_storage(self._settings)
        return self._opened

    def _resolve(self, name: str) -> str:
        if name in self._given:
            return self._stored(self._given[name]) if self._keep else name
        if _SHA256.fullmatch(name):
            self._used(name)
            if self._storage.stat(input_key(name)) is None:
                raise BadValue(f"{name[:10]}…, which is not in the store", "a hash of a kept input")
            return name
        body = self._from_bucket(name) if name.startswith("s3://") else self._from_folder(name)
        self._check(name, body)
        if self._keep:
            return self._stored(body)
        return hashlib.sha256(body).hexdigest()

    def _check(self, name: str, body: bytes) -> None:
        """Raise `BadValue` for a file that is no picture, or none that a worker reads."""
        from imagemill.db.input_pictures import check_picture  # noqa: PLC0415  # 0.1 s, for Pillow

        try:
            check_picture(body, max_pixels=self._settings.max_pixels)
        except InputImageError as error:
            found, _, allowed = error.message.rpartition("; allowed: ")
            raise BadValue(f"{name}, {found}", allowed) from None

    def _stored(self, body: bytes) -> str:
        self._used(hashlib.sha256(body).hexdigest())
        return store_input(self._storage, body)

    def _from_bucket(self, uri: str) -> bytes:
        root = f"{self._storage.uri.rstrip('/')}/"
        if not uri.startswith(root):
            raise BadValue(uri, f"an object under {root} (IMAGEMILL_STORAGE_URL)")
        key = uri.removeprefix(root)
        if not is_key(key):
            raise BadValue(f"{uri}, a name that no object of the store has", _KEYS)
        found = self._storage.stat(key)
        if found is not None and found.size > MAX_INPUT_BYTES:
            raise BadValue(f"{uri} of {found.size:,} bytes", f"at most {MAX_INPUT_BYTES:,} bytes")
        try:
            return self._storage.get(key)
        except ObjectMissing:
            raise BadValue(f"{uri}, which does not exist", "an object that exists") from None

    def _from_folder(self, name: str) -> bytes:
        if self._folder is None:
            raise BadValue(name, "a path once IMAGEMILL_INPUTS_FOLDER is set")
        if "\0" in name:
            raise BadValue("a NUL character", "a path inside the inputs folder")
        root = real_path(self._folder)
        path = real_path(root / name)
        # The path was resolved first, so neither `..` nor a link leads out of the folder.
        if not path.is_relative_to(root):
            raise BadValue(f"{name}, which leaves the inputs folder", "a path inside it")
        return _read(path, name)


def _read(path: Path, name: str) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BadValue(f"{name}, which is not a file", "a file")
        if found.st_size > MAX_INPUT_BYTES:
            raise BadValue(f"{name} of {found.st_size:,} bytes", f"at most {MAX_INPUT_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise BadValue(f"{name} ({error.strerror})", "a file in the inputs folder") from None
