"""Compressed manifests, unpacked while they are read: gzip, bzip2, xz and zstd.

The first bytes show the compression. Only bytes that are read are unpacked, so a small file that
unpacks to a terabyte takes no memory. xz and zstd may ask for a large window in memory; a file that
asks for more than the limit is refused.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from imagemill.scheduler_jobs.manifest.problems import Broken

MAGICS: Mapping[bytes, str] = MappingProxyType(
    {
        b"\x1f\x8b": "gzip",
        b"BZh": "bzip2",
        b"\xfd7zXZ\x00": "xz",
        b"\x28\xb5\x2f\xfd": "zstd",
    }
)
"""The first bytes of compressed files, and the names of the compressions."""

SUFFIXES = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd")

_BUFFER_BYTES = 1 << 16
_DAMAGE = (OSError, ValueError, zlib.error, lzma.LZMAError, MemoryError)
_MOST_WINDOW_BYTES = 1 << 27
"""Twice the need of `xz -9`. zstd has the same limit itself."""


def compression_of(head: bytes) -> str | None:
    """The compression of a file that begins with these bytes; None if it has none."""
    return next((name for magic, name in MAGICS.items() if head.startswith(magic)), None)


def unpacked(stream: io.BufferedReader) -> io.BufferedReader:
    """The stream, unpacked if its first bytes are those of a compressed file.

    It must be at its beginning.
    """
    magic = stream.read(max(map(len, MAGICS)))
    stream.seek(0)
    name = compression_of(magic)
    if name is None:
        return stream
    return io.BufferedReader(_Unpacked(name, stream), _BUFFER_BYTES)


class _Unpacked(io.RawIOBase):
    """An unpacked raw stream. Errors are `Broken`, and everything before them can be read."""

    def __init__(self, name: str, stream: io.BufferedReader) -> None:
        super().__init__()
        self._name = name
        self._stream = stream
        self._read = _READERS[name](stream)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # RawIOBase types it as Buffer
        try:
            data = self._read(len(view))
        except EOFError:
            raise Broken(f"the {self._name} stream is truncated", "a complete file") from None
        except _DAMAGE as error:
            reason = str(error)
            if "runcated" in reason:
                raise Broken(f"the {self._name} stream is truncated", "a complete file") from None
            raise Broken(
                f"the {self._name} stream is damaged ({reason})", "an intact file"
            ) from None
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


class _Frames:
    """Reads one or several compressed streams, with a limit of bytes for each call."""

    def __init__(self, stream: io.BufferedReader, make: Callable[[], _Decompressor]) -> None:
        self._stream = stream
        self._make = make
        self._decompressor: _Decompressor | None = None
        self._waiting = b""

    def __call__(self, count: int) -> bytes:
        """The next bytes, empty at the end. Raises `EOFError` if the file ends inside a stream."""
        while True:
            if self._decompressor is None:
                # An xz file may end with zeros as padding.
                self._waiting = (self._waiting or self._stream.read(_BUFFER_BYTES)).lstrip(b"\0")
                if not self._waiting:
                    if self._stream.peek(1):
                        continue
                    return b""
                self._decompressor = self._make()
            if not self._waiting and self._decompressor.needs_input:
                self._waiting = self._stream.read(_BUFFER_BYTES)
                if not self._waiting:
                    raise EOFError
            data = self._decompressor.decompress(self._waiting, count)
            self._waiting = b""
            if self._decompressor.eof:
                self._waiting = self._decompressor.unused_data
                self._decompressor = None
            if data:
                return data


def _gzip(stream: io.BufferedReader) -> Callable[[int], bytes]:
    return gzip.GzipFile(fileobj=stream).read1


def _bzip2(stream: io.BufferedReader) -> Callable[[int], bytes]:
    return _Frames(stream, bz2.BZ2Decompressor)


def _xz(stream: io.BufferedReader) -> Callable[[int], bytes]:
    return _Frames(
        stream, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_WINDOW_BYTES)
    )


def _zstd(stream: io.BufferedReader) -> Callable[[int], bytes]:
    import pyarrow as pa  # noqa: PLC0415  # 0.1 s, which other compressions need not wait for

    # Arrow includes zstd. It reads several frames and refuses a window over its own limit.
    unpack: Callable[[int], bytes] = pa.CompressedInputStream(
        pa.PythonFile(stream, "r"), "zstd"
    ).read

    def read(count: int) -> bytes:
        try:
            return unpack(count)
        except pa.ArrowException as error:
            raise OSError(str(error)) from error

    return read


_READERS: Mapping[str, Callable[[io.BufferedReader], Callable[[int], bytes]]] = MappingProxyType(
    {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz, "zstd": _zstd}
)
