"""The source of a manifest's bytes: files, standard input (`-`) or `s3://bucket/key`.

A source that can be read only once is first copied to a temporary file. So every source can be
hashed and opened again, and is never in memory as a whole.
"""

import difflib
import hashlib
import io
import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from imagemill.db.errors import ManifestError
from imagemill.db.process.owned_folder import temporary_folder
from imagemill.db.process.whole_file import naming
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest.sources.places import Place, find_places

STDIN = "-"
PROMPTS = "prompts"
"""What prompts of a command line are called, as the manifest that they are."""

_S3 = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NOTHING_THERE = {"NoSuchKey": "no such object", "NoSuchBucket": "no such bucket"}
_CHUNK_BYTES = 1 << 20
_NAMED = 3
"""How many names a manifest of several files is called by."""
_MOST_NAMES = 2_000
"""How many files of a folder are compared with a name that is not there."""
_ALIKE = 0.75
"""How alike two names are that one may be meant for the other (`difflib`'s ratio)."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Source:
    """A manifest's raw bytes, still compressed if the file is.

    `name` is its name in messages, `path` is the file with the bytes, `part` the sheet of a
    workbook that is meant. `whole` says that the file is one prompt. A context manager: closing
    closes `spool`, and so removes a temporary file.
    """

    def __init__(
        self,
        *,
        name: str,
        path: Path,
        spool: ExitStack | None = None,
        part: str | None = None,
        whole: bool = False,
    ) -> None:
        self.name = name
        self.path = path
        self.part = part
        self.whole = whole
        self._spool = spool

    @property
    def files(self) -> Sequence["Source"]:
        """The files of the manifest in their order: itself, where it is one file."""
        return (self,)

    @property
    def label(self) -> str:
        """The name as text that a database holds: a file's name may be no UTF-8."""
        return _as_text(self.name)

    @property
    def stem(self) -> str:
        """The file's bare name, without suffixes, as text."""
        return PurePosixPath(self.label).name.split(".")[0]

    @property
    def suffixes(self) -> list[str]:
        """The suffixes of the name in lower case: `['.csv', '.gz']`."""
        name = self.name if self.part is None else self.name.removesuffix(f"#{self.part}")
        return [suffix.lower() for suffix in Path(name).suffixes]

    def open(self) -> io.BufferedReader:
        """A stream of the bytes from the beginning. The caller closes it."""
        return self.path.open("rb")

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the raw bytes, and of what else says which rows there are."""
        with self.open() as stream:
            digest = hashlib.file_digest(stream, "sha256")
        if self.part is not None:
            digest.update(f"#{self.part}".encode())
        if self.whole:
            digest.update(f"/{self.path.stem}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def close(self) -> None:
        """Remove the temporary file, if there is one. Safe to repeat."""
        if self._spool is not None:
            self._spool.close()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Files(Source):
    """Several files that are one manifest: the rows of one after those of another."""

    def __init__(self, *, name: str, files: Sequence[Source]) -> None:
        super().__init__(name=name, path=files[0].path)
        self._files = tuple(files)

    @property
    def files(self) -> Sequence[Source]:
        """The files in their order."""
        return self._files

    @property
    def stem(self) -> str:
        """The folder's name, of prompts or of a data set; else the first file's bare name."""
        first = self._files[0]
        in_folder = first.whole or first.path.suffix == ".arrow"
        return _as_text(first.path.absolute().parent.name) if in_folder else first.stem

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the files' fingerprints."""
        return hashlib.sha256(" ".join(f.fingerprint() for f in self._files).encode()).hexdigest()

    def close(self) -> None:
        """Remove what was spooled of any file."""
        for file in self._files:
            file.close()


def _as_text(name: str) -> str:
    return os.fsencode(name).decode(errors="replace")


def open_source(named: str | Sequence[str], settings: Settings) -> Source:
    """The manifest at a path, on standard input (`-`) or at `s3://bucket/key`; or at several.

    A path may also be a pattern, a folder of prompts, or a data set that `save_to_disk` wrote.

    Raises:
        ManifestError: there is nothing to read there.
        StorageError: S3 did not answer; `StorageDenied` if it refused.
    """
    texts = [named] if isinstance(named, str) else list(named)
    with ExitStack() as opened:
        files = [
            opened.enter_context(file) for text in texts for file in _opened_files(text, settings)
        ]
        opened.pop_all()
    if len(files) == 1 and files[0].name in {"stdin", texts[0]}:
        return files[0]
    return Files(name=_label(texts, len(files)), files=files)


def _label(texts: Sequence[str], count: int) -> str:
    """What several files are called: as they were named, as long as that is short."""
    if len(texts) <= _NAMED:
        return ", ".join(texts)
    return f"{', '.join(texts[: _NAMED - 1])}, … ({count} files)"


def _opened_files(text: str, settings: Settings) -> Iterator[Source]:
    if text == STDIN:
        yield _spooled("stdin", sys.stdin.buffer)
    elif text.startswith(_S3):
        yield _from_s3(text, settings)
    elif not text:
        raise ManifestError("an empty text in the place of a manifest; a file's path")
    elif _ADDRESS.match(text):
        raise ManifestError(
            f"{text}: an address, and no file; fetch it first, as curl -L '{text}' -o prompts.csv"
        )
    else:
        yield from map(_opened, find_places(text))


def _opened(place: Place) -> Source:
    try:
        if place.path.is_file():
            with place.path.open("rb"):
                return Source(name=place.name, path=place.path, part=place.part, whole=place.whole)
        if _is_device(place.path):
            raise ManifestError(f"{place.name}: a device; a file, or - for standard input")
        stream = place.path.open("rb")
    except FileNotFoundError:
        raise ManifestError(f"{place.name}: no such file{_hint(place)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(f"{place.name}: can't be read: {reason}") from None
    with stream:  # a pipe, such as a shell's <(…), can be read only once
        return _spooled(place.name, stream)


def _is_device(path: Path) -> bool:
    """Whether a disk or an endless device would be read; a terminal ends."""
    mode = path.stat().st_mode
    if stat.S_ISCHR(mode):
        with path.open("rb") as opened:
            return not opened.isatty()
    return stat.S_ISBLK(mode)


def _hint(place: Place) -> str:
    """How to go on where a prompt stands in the place of a file, or a name is mistyped."""
    if " " in place.name and not place.path.suffix and "/" not in place.name:
        return "; a prompt stands behind --prompt, in Python in a list"
    with suppress(OSError):  # no folder, or one that can't be read
        names = [each.name for each in islice(place.path.parent.iterdir(), _MOST_NAMES)]
        for name in difflib.get_close_matches(place.path.name, names, n=1, cutoff=_ALIKE):
            return f"; did you mean {place.path.with_name(name)}?"
    return ""


def prompts_source(prompts: Sequence[str]) -> Source:
    """Prompts of a command line as a manifest in JSON lines: they may hold any character."""
    lines = "".join(f"{json.dumps({'prompt': prompt})}\n" for prompt in prompts)
    return _spooled(PROMPTS, io.BytesIO(lines.encode()))


@contextmanager
def spooling(name: str) -> Iterator[tuple[IO[bytes], Source]]:
    """A temporary file to write, and the source of what was written; an error removes it."""
    spool = ExitStack()
    try:
        path = spool.enter_context(temporary_folder("imagemill-manifest-")) / "manifest"
        with naming(path), path.open("wb") as file:
            yield file, Source(name=name, path=path, spool=spool)
    except BaseException:
        spool.close()
        raise


def _spooled(name: str, stream: _Readable) -> Source:
    with spooling(name) as (file, source):
        while chunk := _read(name, stream):
            file.write(chunk)
    return source


def _read(name: str, stream: _Readable) -> bytes:
    with naming(Path(name)):
        return stream.read(_CHUNK_BYTES)


def _from_s3(uri: str, settings: Settings) -> Source:
    # boto3 takes a fifth of a second to import, which nobody with a file should wait for.
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  # see above

    from imagemill.db.storage.s3_client import ATTEMPTS, s3_client  # noqa: PLC0415
    from imagemill.db.storage.s3_errors import error_code, s3_errors  # noqa: PLC0415

    # urlsplit is not used, because `?` and `#` are ordinary characters in an object's key.
    bucket, _, key = uri.removeprefix(_S3).partition("/")
    if _BUCKET.fullmatch(bucket) is None or not key:
        raise ManifestError(f"{uri}: not an object's address; s3://bucket/key")
    with s3_errors(bucket, f"read {key}"):
        try:
            client = s3_client(
                endpoint_url=settings.s3_endpoint_url, checksums=settings.s3_checksums
            )
            for left in reversed(range(ATTEMPTS)):
                body = client.get_object(Bucket=bucket, Key=key)["Body"]
                try:
                    return _spooled(uri, body)
                except BotoCoreError:  # the answer broke off: botocore does not ask again
                    if not left:
                        raise
        except ClientError as error:
            if error_code(error) in _NOTHING_THERE:
                raise ManifestError(f"{uri}: {_NOTHING_THERE[error_code(error)]}") from None
            raise
    raise AssertionError("the last attempt returns or raises")
