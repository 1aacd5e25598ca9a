"""Small files that ask for much: each read in a process of its own, which says what it took.

`python -m tests.security.bombs FOLDER` prints a JSON line for every bomb and reader.
"""

import io
import json
import os
import re
import resource
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from imagemill.db.errors import ImagemillError
from imagemill.db.input_pictures import check_picture, read_picture
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest import Limits, Problem, open_source, read_manifest
from imagemill.scheduler_jobs.manifest.formats import workbook
from imagemill.scheduler_jobs.manifest.formats.arrow import rows
from imagemill.worker.files.encoder import read_record

MEGABYTE = 1 << 20
MOST_ROWS = 3000


@cache
def _zeros(megabytes: int) -> bytes:
    """What zlib makes of so many zeroes, flushed after each megabyte: all but one are alike."""
    packer = zlib.compressobj(9)
    first, again = (
        packer.compress(bytes(MEGABYTE)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    last = zlib.compressobj(9, wbits=-15).flush()
    # Adler-32 of zeroes: the sum stays 1, and the sum of the sums is their number.
    checksum = struct.pack(">HH", megabytes * MEGABYTE % 65_521, 1)
    return first + again * (megabytes - 1) + last + checksum


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _png(width: int, height: int, *chunks: bytes, pixels: bytes | None = None) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    lines = (b"\0" * (1 + 3 * width)) * height if pixels is None else b""
    body = zlib.compress(lines, 9) if pixels is None else pixels
    end = _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + end


def _saved(kind: str, size: tuple[int, int] = (100, 100), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, kind, **options)
    return buffer.getvalue()


def _animated(kind: str, size: tuple[int, int] = (500, 500)) -> bytes:
    frames = [Image.new("RGB", size, (n, 0, 0)) for n in range(20)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _jpeg_of(width: int, height: int) -> bytes:
    """A header of that size over the data of a small picture."""
    body = bytearray(_saved("JPEG", (64, 64)))
    found = re.search(rb"\xff\xc0\x00\x11\x08", body)
    assert found is not None
    body[found.end() : found.end() + 4] = struct.pack(">HH", height, width)
    return bytes(body)


def _jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan stands there over and over: 11 ms for 200 bytes."""
    body = _saved("JPEG", (4096, 4096), progressive=True)
    begin, end = body.rfind(b"\xff\xda"), body.rfind(b"\xff\xd9")
    return body[:end] + body[begin:end] * count + body[end:]


def _webp_of(side: int) -> bytes:
    data = _saved("WEBP", (8, 8), lossless=True)[12:]
    canvas = struct.pack("<I", side - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas + canvas + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _exif(tag: int, kind: int, count: int) -> bytes:
    entry = struct.pack(">HHII", tag, kind, count, 8)
    loop = struct.pack(">HHII", 0x8769, 4, 1, 8)
    return b"MM\0*" + struct.pack(">IH", 8, 2) + entry + loop + struct.pack(">I", 8)


PICTURES: Mapping[str, Callable[[], bytes]] = {
    "PNG of 60,000 x 60,000": lambda: _png(60_000, 60_000, pixels=b""),
    "PNG of 2**31 x 2**31": lambda: _png(2**31 - 1, 2**31 - 1, pixels=b""),
    "PNG of no pixels": lambda: _png(0, 0, pixels=b""),
    "PNG one pixel high": lambda: _png(20_000_000, 1),
    "PNG whose data goes on": lambda: _png(8, 8, pixels=_zeros(300)),
    "PNG zTXt": lambda: _png(8, 8, _chunk(b"zTXt", b"imagemill\0\0" + _zeros(300))),
    "PNG iTXt": lambda: _png(8, 8, _chunk(b"iTXt", b"imagemill\0\1\0\0\0" + _zeros(300))),
    "PNG iCCP": lambda: _png(8, 8, _chunk(b"iCCP", b"p\0\0" + _zeros(300))),
    "PNG of 500 texts": lambda: _png(
        8, 8, *(_chunk(b"zTXt", b"a%d\0\0" % n + _zeros(1)) for n in range(500))
    ),
    "PNG of 100,000 chunks": lambda: _png(
        8, 8, *(_chunk(b"tEXt", b"a%d\0b" % n) for n in range(100_000))
    ),
    "PNG with a long record": lambda: _png(
        8, 8, _chunk(b"tEXt", b'imagemill\0{"a":"' + b"x" * 5 * MEGABYTE)
    ),
    "PNG with EXIF in a loop": lambda: _png(8, 8, _chunk(b"eXIf", _exif(0x0112, 7, 2**32 - 1))),
    "APNG": lambda: _animated("PNG"),
    "JPEG of 65,500 x 65,500": lambda: _jpeg_of(65_500, 65_500),
    "JPEG with EXIF in a loop": lambda: _saved("JPEG", exif=b"Exif\0\0" + _exif(0x0112, 3, 2**24)),
    "JPEG of 2,000 scans": lambda: _jpeg_of_scans(2000),
    "WebP of 16,383 x 16,383": lambda: _webp_of(16_383),
    "WebP of 6,000 x 6,000": lambda: _saved("WEBP", (6000, 6000), lossless=True, method=0),
    "WebP, animated": lambda: _animated("WEBP"),
    "GIF": lambda: _animated("GIF"),
    "TIFF": lambda: _saved("TIFF", (5000, 5000), compression="tiff_adobe_deflate"),
    "BMP": lambda: _saved("BMP"),
    "EPS": lambda: _saved("EPS"),
    "JPEG 2000": lambda: _saved("JPEG2000"),
    "ICO": lambda: _saved("ICO"),
    "PDF": lambda: _saved("PDF"),
}


def _repeated(rows: int, size: int) -> pa.Array:
    """One text, named `rows` times by a dictionary."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), ["a" * size])


def _lists(values: pa.Array, count: int) -> pa.Array:
    ends = pa.array(np.arange(0, len(values) + 1, len(values) // count), pa.int32())
    return pa.ListArray.from_arrays(ends, values)


def _parquet(path: Path, columns: Mapping[str, Any], **options: Any) -> None:
    written = {"compression": "zstd", "store_schema": False, **options}
    pq.write_table(pa.table(dict(columns)), path, **written)


PARQUET: Mapping[str, Callable[[Path], None]] = {
    "a dictionary's text, a million times": lambda p: _parquet(
        p, {"prompt": _repeated(10**6, MEGABYTE)}
    ),
    "a text of 16 MB, a thousand times": lambda p: _parquet(
        p, {"prompt": _repeated(1000, 16 * MEGABYTE)}
    ),
    "a list of 30 million zeroes": lambda p: _parquet(
        p, {"prompt": ["a"], "x": _lists(pa.array(np.zeros(3 * 10**7, np.int64)), 1)}
    ),
    "lists of a dictionary's text": lambda p: _parquet(
        p, {"prompt": ["a"] * 500, "x": _lists(_repeated(50_000, 1 << 16), 500)}
    ),
    "a page of 200 MB": lambda p: _parquet(
        p, {"prompt": ["a" * MEGABYTE] * 200}, use_dictionary=False
    ),
}


def _workbook(path: Path, parts: Mapping[str, Iterator[bytes]]) -> None:
    """A workbook of one row, with some parts in place of its own."""
    buffer = io.BytesIO()
    book = openpyxl.Workbook()
    book.active.append(["prompt"])
    book.active.append(["a cat"])
    book.save(buffer)
    with (
        zipfile.ZipFile(buffer) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for name in {*old.namelist(), *parts}:
            with new.open(name, "w", force_zip64=True) as part:
                for piece in parts.get(name, iter([old.read(name)] if name not in parts else [])):
                    part.write(piece)


def _repeating(begin: bytes, piece: bytes, megabytes: int) -> Iterator[bytes]:
    yield begin
    for _ in range(megabytes):
        yield piece * (MEGABYTE // len(piece))


def _compressed_arrow(path: Path) -> None:
    table = pa.table({"prompt": ["a"], "x": _lists(pa.array(np.zeros(25 * 10**7, np.int64)), 1)})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with path.open("wb") as file, pa.ipc.new_stream(file, table.schema, options=options) as writer:
        writer.write_table(table)


_SHEET = "xl/worksheets/sheet1.xml"
_ROWS = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'

CONTAINERS: Mapping[str, Callable[[Path], None]] = {
    "a workbook of 200 megabytes of strings": lambda p: _workbook(
        p, {"xl/sharedStrings.xml": _repeating(b"<sst>", b"<si><t>a</t></si>", 200)}
    ),
    "a workbook whose cell goes on": lambda p: _workbook(
        p, {_SHEET: _repeating(_ROWS + b'<row><c t="inlineStr"><is><t>', b"a", 300)}
    ),
    "a workbook of empty rows": lambda p: _workbook(p, {_SHEET: _repeating(_ROWS, b"<row/>", 10)}),
    "a workbook of no rows": lambda p: _workbook(p, {_SHEET: _repeating(_ROWS, b"<x/>", 20)}),
    "an Arrow list of 250 million zeroes": _compressed_arrow,
}


def _read_manifest(path: Path) -> str:
    last: object = None
    with open_source(str(path), Settings()) as source:
        limits = Limits.from_settings(Settings())
        for number, last in enumerate(read_manifest(source, limits=limits)):
            if isinstance(last, Problem) and number > MOST_ROWS:
                break
    return str(last)


def _measured(name: str, read: Callable[[], object]) -> None:
    """Read in a fork, which prints what came of it: memory of the one is not the other's."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        assert status == 0, name
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    try:
        said = f"read: {read()}"
    except ImagemillError as error:
        said = f"{error.code}: {error}"
    except BaseException as error:  # what a test must see, and what ends nothing here
        said = f"RAISED {type(error).__name__}: {error}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    document = {"name": name, "megabytes": peak >> 10, "seconds": time.monotonic() - started}
    sys.stdout.write(json.dumps({**document, "said": said}) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _bombs(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    most = Settings().max_pixels
    for name, make in PICTURES.items():
        body = make()
        yield f"input: {name}", lambda body=body: read_picture(body, max_pixels=most).size
        yield f"check: {name}", lambda body=body: check_picture(body, max_pixels=most)
        yield f"record: {name}", lambda body=body: read_record(body, max_pixels=most)
    huge = folder / "huge.png"
    with huge.open("wb") as file:
        file.write(_png(8, 8))
        file.truncate(1 << 40)
    yield "record: a file of a terabyte", lambda: read_record(huge)
    for name, write in {**PARQUET, **CONTAINERS}.items():
        path = folder / "bomb"
        pid = os.fork()  # so that what writing takes is given back
        if pid == 0:
            write(path)
            os._exit(0)
        os.waitpid(pid, 0)
        yield f"manifest: {name}", lambda path=path: _read_manifest(path)


def main() -> None:
    # Parts of what may be taken, so that a bomb is found out in that part of the time.
    workbook._MOST_MEMORY_BYTES >>= 4
    rows._MOST_LONG_ROWS >>= 2
    folder = Path(sys.argv[1])
    for name, read in _bombs(folder):
        _measured(name, read)


if __name__ == "__main__":
    main()
