"""The source of a manifest's bytes: a file, standard input (`-`) or `s3://bucket/key`.

A source that can be read only once is first copied to a temporary file. So every source can be
hashed and opened again, and is never in memory as a whole.
"""

import hashlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast

from botocore.exceptions import ClientError

from imagemill.db.errors import ManifestError
from imagemill.db.settings import Settings
from imagemill.db.storage.s3_client import s3_client
from imagemill.db.storage.s3_errors import error_code, s3_errors

STDIN = "-"
PROMPTS = "prompts"
"""What prompts of a command line are called, as the manifest that they are."""

_S3 = "s3://"
_NOTHING_THERE = {"NoSuchKey": "no such object", "NoSuchBucket": "no such bucket"}
_CHUNK_BYTES = 1 << 20


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Source:
    """A manifest's raw bytes, still compressed if the file is.

    `name` is its name in messages, `path` is the file with the bytes. A context manager: closing
    removes a temporary file.
    """

    def __init__(self, *, name: str, path: Path, spool: IO[bytes] | None = None) -> None:
        self.name = name
        self.path = path
        self._spool = spool

    @property
    def suffixes(self) -> list[str]:
        """The suffixes of the name in lower case: `['.csv', '.gz']`."""
        return [suffix.lower() for suffix in Path(self.name).suffixes]

    def open(self) -> io.BufferedReader:
        """A stream of the bytes from the beginning. The caller closes it."""
        return self.path.open("rb")

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the raw bytes."""
        with self.open() as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def close(self) -> None:
        """Remove the temporary file, if there is one. Safe to repeat."""
        if self._spool is not None:
            self._spool.close()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(path_or_uri: str, settings: Settings) -> Source:
    """The manifest at a path, on standard input (`-`) or at `s3://bucket/key`.

    Raises:
        ManifestError: there is nothing to read there.
        StorageError: S3 did not answer; `StorageDenied` if it refused.
    """
    if path_or_uri == STDIN:
        return _spooled("stdin", sys.stdin.buffer)
    if path_or_uri.startswith(_S3):
        return _from_s3(path_or_uri, settings)
    path = Path(path_or_uri)
    try:
        if path.is_file():
            with path.open("rb"):
                return Source(name=path_or_uri, path=path)
        if path.is_dir():
            raise ManifestError(f"{path_or_uri}: a folder; a manifest is one file")
        # A pipe, such as a shell's <(…), can be read only once.
        with path.open("rb") as stream:
            return _spooled(path_or_uri, stream)
    except FileNotFoundError:
        raise ManifestError(f"{path_or_uri}: no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(f"{path_or_uri}: can't be read: {reason}") from None


def prompts_source(prompts: Sequence[str]) -> Source:
    """Prompts of a command line as a manifest in JSON lines: they may hold any character."""
    lines = "".join(f"{json.dumps({'prompt': prompt})}\n" for prompt in prompts)
    return _spooled(PROMPTS, io.BytesIO(lines.encode()))


def _spooled(name: str, stream: _Readable) -> Source:
    # The file stays open as long as the source lives, because closing deletes it.
    spool = tempfile.NamedTemporaryFile(prefix="imagemill-manifest-")  # noqa: SIM115
    try:
        shutil.copyfileobj(cast(BinaryIO, stream), spool, _CHUNK_BYTES)
        spool.flush()
    except BaseException:
        spool.close()
        raise
    return Source(name=name, path=Path(spool.name), spool=cast(IO[bytes], spool))


def _from_s3(uri: str, settings: Settings) -> Source:
    # urlsplit is not used, because `?` and `#` are ordinary characters in an object's key.
    bucket, _, key = uri.removeprefix(_S3).partition("/")
    if not bucket or not key:
        raise ManifestError(f"{uri}: not an object's address; s3://bucket/key")
    with s3_errors(bucket, f"read {key}"):
        try:
            client = s3_client(
                endpoint_url=settings.s3_endpoint_url, checksums=settings.s3_checksums
            )
            body = client.get_object(Bucket=bucket, Key=key)["Body"]
            return _spooled(uri, body)
        except ClientError as error:
            if error_code(error) in _NOTHING_THERE:
                raise ManifestError(f"{uri}: {_NOTHING_THERE[error_code(error)]}") from None
            raise
