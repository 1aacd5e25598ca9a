"""Where a manifest's bytes come from: a file, standard input (`-`) or `s3://bucket/key`.

What can be read only once is spooled to a temporary file first, so that every source can be
fingerprinted and opened again, and never lies whole in memory.
"""

import hashlib
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast
from urllib.parse import urlsplit

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from db.errors import ManifestError, StorageDenied, StorageError
from db.settings import Settings

STDIN = "-"
_CHUNK_BYTES = 1 << 20


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Source:
    """A manifest's raw bytes, as they lie in the file (compressed, if it is).

    `name` is what messages call it. A context manager: closing removes what was spooled.
    """

    def __init__(self, *, name: str, path: Path, spool: IO[bytes] | None = None) -> None:
        self.name = name
        self._path = path
        self._spool = spool

    @property
    def suffixes(self) -> list[str]:
        """The name's suffixes in lower case, `['.csv', '.gz']`."""
        return [suffix.lower() for suffix in Path(self.name).suffixes]

    def open(self) -> io.BufferedReader:
        """The bytes from their beginning; the caller closes it."""
        return self._path.open("rb")

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the raw bytes."""
        with self.open() as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def close(self) -> None:
        """Remove what was spooled; nothing happens the second time."""
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
    if path_or_uri.startswith("s3://"):
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


def _spooled(name: str, stream: _Readable) -> Source:
    # Kept open for as long as the source lives: closing it deletes it.
    spool = tempfile.NamedTemporaryFile(prefix="imagemill-manifest-")  # noqa: SIM115
    try:
        shutil.copyfileobj(cast(BinaryIO, stream), spool, _CHUNK_BYTES)
        spool.flush()
    except BaseException:
        spool.close()
        raise
    return Source(name=name, path=Path(spool.name), spool=cast(IO[bytes], spool))


def _from_s3(uri: str, settings: Settings) -> Source:
    # Not urlsplit alone: `?` and `#` are ordinary characters in an object's key.
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not key or urlsplit(f"s3://{bucket}").username:
        raise ManifestError(f"{uri}: not an object's address; s3://bucket/key")
    try:
        client = boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint_url,
            config=Config(
                signature_version="s3v4",
                response_checksum_validation=settings.s3_checksums,
                retries={"mode": "standard", "max_attempts": 5},
            ),
        )
        body = client.get_object(Bucket=bucket, Key=key)["Body"]
        return _spooled(uri, body)
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = error.response.get("Error", {}).get("Code", "")
        if code in {"NoSuchKey", "404"}:
            raise ManifestError(f"{uri}: no such object") from None
        if code == "NoSuchBucket":
            raise ManifestError(f"{uri}: no such bucket") from None
        if status in {401, 403}:
            raise StorageDenied(f"{uri}: refused ({code}); check the AWS credentials") from None
        raise StorageError(f"{uri}: {error}") from None
    except (BotoCoreError, ValueError) as error:
        raise StorageError(f"{uri}: {error}") from None
