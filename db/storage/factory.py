"""Opens the store that the settings name."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from imagemill.db.errors import SettingsError
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.storage.keys import is_key

_BUCKET = re.compile(r"[a-z0-9A-Z][a-z0-9A-Z._-]{1,254}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def open_storage(settings: Settings, *, keys: tuple[str, str] | None = None) -> Storage:
    """The store at `settings.storage_url`: a path, `file:///path`, or `s3://bucket/prefix`.

    `keys` are an S3 access key and its secret, if not those of the environment. It does no I/O.
    Raises `SettingsError` if the URL is wrong.
    """
    url = settings.storage_url
    if url.startswith("s3://"):
        return _open_bucket(settings, keys)
    if url.startswith("file://"):
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise _bad(url)
        return FolderStorage(Path(unquote(parts.path)))
    if not url or _SCHEME.match(url):
        raise _bad(url)
    return FolderStorage(Path(url).expanduser())


def _open_bucket(settings: Settings, keys: tuple[str, str] | None) -> Storage:
    bucket, _, prefix = settings.storage_url.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/")
    if _BUCKET.fullmatch(bucket) is None or (prefix and not is_key(prefix)):
        raise _bad(settings.storage_url)
    # Importing boto3 takes 0.2 s, and a user of a folder does not need it.
    from imagemill.db.storage.s3 import S3Storage  # noqa: PLC0415  # see above

    return S3Storage(
        bucket,
        prefix,
        endpoint_url=settings.s3_endpoint_url,
        checksums=settings.s3_checksums,
        keys=keys,
    )


def _bad(url: str) -> SettingsError:
    shown = url.rpartition("@")[2]  # the part before an @ might be a password
    return SettingsError(
        f"IMAGEMILL_STORAGE_URL: {shown!r} is neither a folder nor s3://bucket/prefix "
        "(letters, digits, '.', '_' and '-', without '/' at the end)"
    )
