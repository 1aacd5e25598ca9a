"""The pictures of an export: read, verified against their SHA-256, and re-encoded if asked."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from imagemill.db.errors import StorageError, UsageError
from imagemill.db.provenance import MADE_BY_A_MACHINE, PNG_XMP_KEY, xmp_packet
from imagemill.db.specs import MEDIA_TYPES
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.exports.marks.c2pa_signature import C2paSigner
from imagemill.scheduler_jobs.exports.marks.watermark import add_watermark, check_size, check_text
from imagemill.scheduler_jobs.exports.selection import ExportImage
from imagemill.scheduler_jobs.picture_names import file_suffix

DEFAULT_QUALITY = 95
_EXIF, _USER_COMMENT = 0x8769, 0x9286
_UNICODE = b"UNICODE\0"


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureForm:
    """How pictures are re-encoded; as they were rendered where nothing is set.

    `size` is the longest side in pixels; a picture that is smaller stays as it is. `format` is
    png, jpeg or webp, `quality` that of jpeg and webp (1 to 100). `watermark` is a text that is
    hidden in the pixels, `signer` signs the files.
    """

    size: int | None = None
    format: str | None = None
    quality: int = DEFAULT_QUALITY
    watermark: str | None = None
    signer: C2paSigner | None = None

    def format_of(self, image: ExportImage) -> str:
        """The format in which an image is exported."""
        return self.format or str(image["format"])

    def changes(self, image: ExportImage) -> bool:
        """Whether the exported bytes are others than the stored ones."""
        return self.re_encodes(image) or self.signer is not None

    def re_encodes(self, image: ExportImage) -> bool:
        """Whether the exported pixels are others than the stored ones, or in another format."""
        changed = self._shrinks(image) or self.format_of(image) != image["format"]
        return changed or self.watermark is not None

    def extent(self, image: ExportImage) -> tuple[int, int]:
        """Width and height of the exported picture, in pixels."""
        width, height = image["width"], image["height"]
        if not self._shrinks(image) or self.size is None:
            return width, height
        scale = self.size / max(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def check(self, image: ExportImage) -> None:
        """A `UsageError` if the image can't be exported so, as far as its size tells."""
        if self.watermark is not None:
            with _naming(image):
                check_size(self.extent(image))

    def document(self) -> dict[str, Any]:
        """The form as JSON, for records of the export."""
        return {
            "size": self.size,
            "format": self.format,
            "quality": self.quality,
            "watermark": self.watermark,
            "c2pa": None if self.signer is None else self.signer.document(),
        }

    def _shrinks(self, image: ExportImage) -> bool:
        return self.size is not None and max(image["width"], image["height"]) > self.size


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture as it is exported: a whole file, its SHA-256, its size in pixels, its suffix."""

    body: bytes
    sha256: str
    width: int
    height: int
    suffix: str


def read_picture(storage: Storage, image: ExportImage, form: PictureForm) -> Picture:
    """The image's picture from the store. A `StorageError` if its bytes are not the recorded ones.

    Re-encoded copies keep the texts that say how the picture was made, and say that a machine made
    it. The record from which the original can be rendered again stays with the original: it names
    other pixels.
    """
    body = storage.get(image["object_key"])
    sha256 = hashlib.sha256(body).hexdigest()
    if sha256 != image["sha256"]:
        raise StorageError(
            f"image {image['image_id']}: {image['object_key']} in {storage.uri} is damaged: "
            "its SHA-256 is not the recorded one; `imagemill verify` finds all that are"
        )
    width, height = form.extent(image)
    image_format = form.format_of(image)
    if form.re_encodes(image):
        with _naming(image):
            body = _encoded(body, (width, height), image_format, form)
    if form.signer is not None:
        body = form.signer.signed(
            body, MEDIA_TYPES[image_format], made_by=image["model"], source_sha256=image["sha256"]
        )
    if form.changes(image):
        sha256 = hashlib.sha256(body).hexdigest()
    suffix = file_suffix(image_format)
    return Picture(body=body, sha256=sha256, width=width, height=height, suffix=suffix)


def known_picture(image: ExportImage, form: PictureForm) -> Picture:
    """What is known of an unchanged picture without reading it; its `body` is empty."""
    width, height = form.extent(image)
    suffix = file_suffix(form.format_of(image))
    return Picture(body=b"", sha256=image["sha256"], width=width, height=height, suffix=suffix)


def read_form(
    size: int | None,
    image_format: str | None,
    quality: int | None,
    *,
    watermark: str | None = None,
    c2pa: tuple[Path | None, Path | None] = (None, None),
) -> PictureForm:
    """The form that a command line asks for; a `UsageError` for options that do nothing.

    `c2pa` is the file of the certificates and that of their key.
    """
    if quality is not None and image_format not in ("jpeg", "webp"):
        raise UsageError("--quality: only --format-images jpeg or webp has one")
    certificates, key = c2pa
    if (certificates is None) != (key is None):
        raise UsageError("--c2pa CERT and --c2pa-key KEY go together")
    if watermark is not None:
        check_text(watermark)
    return PictureForm(
        size=size,
        format=image_format,
        quality=quality or DEFAULT_QUALITY,
        watermark=watermark,
        signer=None
        if certificates is None or key is None
        else C2paSigner.from_files(certificates, key),
    )


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as a PNG file whose only text says that a machine made it."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=_png_texts(None))
    return buffer.getvalue()


@contextmanager
def _naming(image: ExportImage) -> Iterator[None]:
    """Say which image an error is about."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"image {image['image_id']}: {error.message}") from None


def _encoded(body: bytes, extent: tuple[int, int], image_format: str, form: PictureForm) -> bytes:
    with Image.open(io.BytesIO(body)) as opened:
        picture = opened.convert("RGB")
        # Only now: a PNG's texts may stand behind its pixels.
        exif = opened.getexif()
        parameters = _parameters(opened.info, exif)
    if picture.size != extent:
        picture = picture.resize(extent, Image.Resampling.LANCZOS)
    if form.watermark is not None:
        picture = add_watermark(picture, form.watermark)
    buffer = io.BytesIO()
    options: dict[str, Any] = {}
    if image_format == "png":
        options["pnginfo"] = _png_texts(parameters)
    else:
        options["quality"] = form.quality
        options["xmp"] = xmp_packet(MADE_BY_A_MACHINE).encode()
    if parameters is not None and image_format != "png":
        # Where A1111's readers look for it in formats that have no texts by name.
        exif.get_ifd(_EXIF)[_USER_COMMENT] = _UNICODE + parameters.encode("utf-16-be")
    # An Exif's length does not count what is in its inner directories.
    if len(exif) or exif.get_ifd(_EXIF):
        options["exif"] = exif.tobytes()
    picture.save(buffer, image_format.upper(), **options)
    return buffer.getvalue()


def _parameters(texts: Mapping[Any, Any], exif: Image.Exif) -> str | None:
    """What A1111's readers read: a PNG's text `parameters`, or the Exif comment of other files."""
    if isinstance(texts.get("parameters"), str):
        return str(texts["parameters"])
    comment = exif.get_ifd(_EXIF).get(_USER_COMMENT)
    if isinstance(comment, bytes) and comment.startswith(_UNICODE):
        return comment.removeprefix(_UNICODE).decode("utf-16-be", "replace")
    return None


def _png_texts(parameters: str | None) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    if parameters is not None:
        info.add_itxt("parameters", parameters)
    info.add_itxt(PNG_XMP_KEY, xmp_packet(MADE_BY_A_MACHINE))
    return info
