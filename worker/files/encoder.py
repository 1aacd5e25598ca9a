"""Pictures as files: writes pixels together with their record, and reads both back.

Every file carries two descriptions: the infotext that other tools read, and our own record. PNG
has them in the text chunks `parameters` and `imagemill`; JPEG and WebP have them in the EXIF field
`UserComment` and in XMP. XMP also says that a machine made the picture, in files since version 2
of the metadata. `docs/files.md` shows what is inside.

The same pixels and record give the same bytes, because no time, host or job goes into a file. Two
workers that render one image thus write the same file, and the store sees no conflict.
"""

import hashlib
import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from imagemill.db.errors import RecordError
from imagemill.db.provenance import MADE_BY_A_MACHINE, PNG_XMP_KEY, xmp_packet
from imagemill.db.specs import MEDIA_TYPES
from imagemill.worker.files import xmp
from imagemill.worker.files.infotext import infotext, shortened
from imagemill.worker.files.png import write_png
from imagemill.worker.files.records import ImageRecord, Pixels, pixels_sha256

INFOTEXT_KEY = "parameters"
RECORD_KEY = "imagemill"
SOURCE_TYPE_SINCE = 2
"""The metadata version from which on files say that a machine made them."""

JPEG_QUALITY = 95
"""The quality if the request names none. Chroma is never subsampled: it would blur colours."""

MAX_PIXELS = 4096 * 4096
"""The default of the setting `max_pixels`. A larger picture is not decoded."""

_FILE_BYTES_A_PIXEL = 4
_FILE_BYTES_BESIDE = 1 << 24
"""Limits for reading. A file of ours has about 3 bytes for each pixel, and a record beside them."""

MAX_RECORD_CHARACTERS = 1 << 22
"""The longest record that is read. A usual one has some ten thousand characters; the longest
allowed prompts, with every character escaped, make half a million."""

_COMMENT_UNITS = 32_000
"""The UTF-16 units of infotext that fit into a JPEG segment beside its headers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedImage:
    """A file: its bytes, their SHA-256 (hex), and the SHA-256 of the raw RGB pixels."""

    body: bytes
    sha256: str
    pixels_sha256: str
    width: int
    height: int
    media_type: str


def encode(pixels: Pixels, record: ImageRecord) -> EncodedImage:
    """The file that `record.spec` asks for: its format, quality and size.

    With `quality` None, JPEG has quality 95 and WebP is lossless. PNG is always lossless. Raises
    `ValueError` if the pixels are not (height, width, 3), uint8, as the specification says.
    """
    spec = record.spec
    if pixels.shape != (spec.height, spec.width, 3) or pixels.dtype != np.uint8:
        raise ValueError(
            f"pixels are {pixels.shape} of {pixels.dtype}, "
            f"not {(spec.height, spec.width, 3)} of uint8"
        )
    text = infotext(spec, version=record.version)
    source_type = record.metadata_version >= SOURCE_TYPE_SINCE
    if spec.format == "png":
        texts = {INFOTEXT_KEY: text, RECORD_KEY: record.to_json()}
        if source_type:
            texts[PNG_XMP_KEY] = xmp_packet(MADE_BY_A_MACHINE)
        body = write_png(pixels, text=texts)
    elif spec.format == "jpeg":
        body = _saved(
            pixels,
            "JPEG",
            quality=JPEG_QUALITY if spec.quality is None else spec.quality,
            subsampling="4:4:4",
            exif=_user_comment(shortened(text, units=_COMMENT_UNITS)),
            extra=xmp.jpeg_segments(record.to_json(), source_type=source_type),
        )
    else:
        # Effort 1 of 6 takes 30 ms for 512x512 and gives files a sixth smaller than effort 0.
        # Higher ones gain next to nothing.
        lossless: dict[str, Any] = {"lossless": True, "quality": 0, "method": 1}
        body = _saved(
            pixels,
            "WEBP",
            exif=_user_comment(text),
            xmp=xmp.packet(record.to_json(), source_type=source_type),
            **(lossless if spec.quality is None else {"quality": spec.quality}),
        )
    return EncodedImage(
        body=body,
        sha256=hashlib.sha256(body).hexdigest(),
        pixels_sha256=record.pixels_sha256,
        width=spec.width,
        height=spec.height,
        media_type=MEDIA_TYPES[spec.format],
    )


def read_record(
    source: bytes | Path, *, max_pixels: int = MAX_PIXELS
) -> tuple[ImageRecord, Pixels]:
    """The record and the pixels in an imagemill file.

    Raises `RecordError` if the file is no picture, has no record, is damaged, or has more than
    `max_pixels` pixels. The pixels of a lossless file are checked against the record's hash.
    """
    name = str(source) if isinstance(source, Path) else "the file"
    try:
        with warnings.catch_warnings():
            # Our own checks end in one error, so Pillow's warnings are not needed.
            warnings.simplefilter("ignore")
            record, pixels = _read(source, max_pixels=max_pixels)
    except FileNotFoundError:
        raise RecordError(f"{name}: there is no such file") from None
    except UnidentifiedImageError:
        raise RecordError(f"{name}: not a PNG, JPEG or WebP file, or damaged") from None
    except Image.DecompressionBombError as error:
        raise RecordError(f"{name}: {error}") from error
    except RecordError as error:
        raise RecordError(f"{name}: {error}") from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        if isinstance(error, OSError) and error.strerror:  # the system's trouble with the file
            raise RecordError(f"{name}: can't be read: {error.strerror}") from None
        # Pillow raises any of these for a broken file, depending on the format and the damage.
        raise RecordError(f"{name}: damaged ({error})") from error
    return record, pixels


def _read(source: bytes | Path, *, max_pixels: int) -> tuple[ImageRecord, Pixels]:
    # Pillow reads a whole WebP before it knows its size, so the file's length is checked first.
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    most = _FILE_BYTES_BESIDE + _FILE_BYTES_A_PIXEL * max_pixels
    if size > most:
        raise RecordError(f"{size:,} bytes, where a picture of ours has at most {most:,}")
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
        if image.width * image.height > max_pixels:
            raise RecordError(
                f"{image.width}x{image.height} is more than the {max_pixels} pixels allowed "
                "(IMAGEMILL_MAX_PIXELS)"
            )
        text = _record_text(image)
        if text is None:
            raise RecordError("no imagemill record in it")
        if len(text) > MAX_RECORD_CHARACTERS:
            raise RecordError(
                f"an imagemill record of {len(text):,} characters; "
                f"allowed: {MAX_RECORD_CHARACTERS:,}"
            )
        record = ImageRecord.from_json(text)
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape != (record.spec.height, record.spec.width, 3):
        raise RecordError("its size is not the one that the record describes")
    lossy = record.spec.format == "jpeg" or (
        record.spec.format == "webp" and record.spec.quality is not None
    )
    if not lossy and pixels_sha256(pixels) != record.pixels_sha256:
        raise RecordError("the pixels are not those that the record describes")
    return record, pixels


def _record_text(image: Image.Image) -> str | None:
    if isinstance(image, JpegImageFile):
        return xmp.find_jpeg_record(data for _, data in image.applist)
    if image.format == "WEBP":
        return xmp.find_record(image.info.get("xmp", b""))
    text = image.info.get(RECORD_KEY)
    return text if isinstance(text, str) else None


def _saved(pixels: Pixels, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_, **options)
    return buffer.getvalue()


def _user_comment(text: str) -> bytes:
    """An EXIF block (big-endian TIFF) whose only entry is `UserComment`, as piexif writes it.

    Pillow would give the entry the type BYTE, but readers expect UNDEFINED.
    """
    comment = b"UNICODE\0" + text.encode("utf-16-be")
    first_folder, exif_folder, after = 8, 26, 44
    entry = struct.Struct(">HHII")
    end = struct.pack(">I", 0)
    one = struct.pack(">H", 1)
    long_type, undefined_type = 4, 7
    return b"".join(
        (
            b"Exif\0\0MM\0*",
            struct.pack(">I", first_folder),
            one + entry.pack(0x8769, long_type, 1, exif_folder) + end,
            one + entry.pack(0x9286, undefined_type, len(comment), after) + end,
            comment,
        )
    )
