"""Files: what other readers find in them, what we read back, and that their bytes never vary."""

import contextlib
import hashlib
import json
import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imagemill.db.errors import RecordError
from imagemill.db.provenance import PNG_XMP_KEY, SOURCE_TYPE
from imagemill.db.specs import ImageSpec
from imagemill.db.states import Outcome
from imagemill.worker.files import xmp
from imagemill.worker.files.encoder import encode, read_record
from imagemill.worker.files.infotext import infotext
from imagemill.worker.files.png import write_png
from imagemill.worker.files.records import ImageRecord, pixels_sha256
from tests.helpers.infotext import parse_infotext

FILES = [("png", None), ("jpeg", None), ("jpeg", 60), ("webp", None), ("webp", 80)]
LOSSLESS = [("png", None), ("webp", None)]


def picture(width: int = 24, height: int = 16) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 9, y * 13, x * y], axis=-1).astype(np.uint8)


def record(pixels: np.ndarray, **changes) -> ImageRecord:
    values = {
        "model": "shapes64",
        "weights_digest": "ab" * 32,
        "prompt": "a red circle",
        "seed": 2**40,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "steps": 20,
        "guidance_scale": 7.0,
        "sampler": "ddim",
    }
    return ImageRecord(
        spec=ImageSpec(**{**values, **changes}),
        environment={"torch": "2.13.0", "shapes": {"slots": 4}, "flags": [True, None]},
        pixels_sha256=pixels_sha256(pixels),
        outcome=Outcome.TRUNCATED_PROMPT,
        prompt_cut="circle",
        version="0.1",
    )


def comment(body: bytes) -> str:
    """The infotext of a JPEG or WebP, as piexif's `UserComment.load` reads it."""
    raw = Image.open(BytesIO(body)).getexif().get_ifd(0x8769)[0x9286]
    assert raw.startswith(b"UNICODE\0")
    return raw[8:].decode("utf-16-be")


@pytest.mark.parametrize(("format_", "quality"), FILES)
def test_what_was_written_is_read_back(format_, quality):
    pixels = picture()
    written = record(pixels, format=format_, quality=quality)
    file = encode(pixels, written)
    found, decoded = read_record(file.body)
    assert found == written
    assert decoded.shape == pixels.shape
    assert np.abs(decoded.astype(int) - pixels).mean() < 12
    assert (file.width, file.height) == (24, 16)
    assert file.media_type == f"image/{format_}"


@pytest.mark.parametrize(("format_", "quality"), LOSSLESS)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 1), (1, 5), (64, 64), (130, 7)])
def test_lossless_files_hold_every_pixel(format_, quality, width, height):
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    body = encode(pixels, record(pixels, format=format_, quality=quality)).body
    assert np.array_equal(np.asarray(Image.open(BytesIO(body))), pixels)


@pytest.mark.parametrize(("format_", "quality"), FILES)
def test_the_bytes_are_the_same_every_time_and_hashed(format_, quality):
    pixels = picture()
    one = encode(pixels, record(pixels, format=format_, quality=quality))
    # The same pixels in another memory layout.
    other = encode(np.asfortranarray(pixels), record(pixels, format=format_, quality=quality))
    assert one == other
    assert one.sha256 == hashlib.sha256(one.body).hexdigest()
    assert one.pixels_sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_a_png_shows_both_texts_to_pillow():
    pixels = picture()
    written = record(pixels)
    text = Image.open(BytesIO(encode(pixels, written).body)).text
    assert text["parameters"] == infotext(written.spec, version="0.1")
    assert json.loads(text["imagemill"])["request_key"] == written.spec.request_key()
    assert set(text) == {
        "parameters",
        "imagemill",
        PNG_XMP_KEY,
    }  # ComfyUI reads JSON in prompt and workflow


@pytest.mark.parametrize(("prompt", "kind"), [("café", b"tEXt"), ("猫", b"iTXt")])
def test_a_png_uses_itxt_only_where_latin_1_is_too_small(prompt, kind):
    pixels = picture()
    body = encode(pixels, record(pixels, prompt=prompt)).body
    assert body[body.index(b"parameters\0") - 4 :].startswith(kind)
    assert Image.open(BytesIO(body)).text["parameters"].startswith(prompt)


def test_a_png_is_sound_chunk_by_chunk():
    body = write_png(picture(), text={"a": "b"})
    kinds, offset = [], 8
    while offset < len(body):
        size, kind = struct.unpack(">I4s", body[offset : offset + 8])
        data = body[offset + 8 : offset + 8 + size]
        (checksum,) = struct.unpack(">I", body[offset + 8 + size : offset + 12 + size])
        assert checksum == zlib.crc32(kind + data)
        kinds.append(kind)
        offset += 12 + size
    assert kinds == [b"IHDR", b"tEXt", b"IDAT", b"IEND"]


@pytest.mark.parametrize(("format_", "quality"), [("jpeg", None), ("webp", None), ("webp", 80)])
def test_other_readers_find_the_infotext_in_exif(format_, quality):
    pixels = picture()
    written = record(pixels, prompt="猫 and 😀", format=format_, quality=quality)
    body = encode(pixels, written).body
    assert comment(body) == infotext(written.spec, version="0.1")
    # piexif wants the type UNDEFINED, and the byte order that the text is in.
    assert b"MM\0*" in body
    assert b"\x92\x86\x00\x07" in body


def test_a_jpeg_keeps_its_colours_at_full_resolution():
    pixels = picture()
    body = encode(pixels, record(pixels, format="jpeg")).body
    layers = Image.open(BytesIO(body)).layer
    assert [layer[1:3] for layer in layers] == [(1, 1)] * 3


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
def test_the_longest_prompts_fit_every_format(format_):
    pixels = picture()
    written = record(
        pixels, prompt="猫, " * 8000, negative_prompt="</imagemill:record>& " * 1500, format=format_
    )
    body = encode(pixels, written).body
    assert read_record(body)[0] == written
    text = Image.open(BytesIO(body)).text["parameters"] if format_ == "png" else comment(body)
    assert parse_infotext(text).parameters["Seed"] == str(2**40)
    assert written.spec.prompt.startswith(text[:1000])


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
@settings(max_examples=40, deadline=None)
@given(prompt=st.text(max_size=60), negative=st.text(max_size=60), cut=st.none() | st.text())
def test_any_prompt_survives_exactly(format_, prompt, negative, cut):
    pixels = picture(4, 2)
    spec = record(pixels, prompt=prompt, negative_prompt=negative, format=format_).spec
    written = ImageRecord(
        spec=spec, environment={"x": prompt}, pixels_sha256=pixels_sha256(pixels), prompt_cut=cut
    )
    assert read_record(encode(pixels, written).body)[0] == written


def test_a_file_says_nothing_of_a_job():
    pixels = picture()
    assert set(json.loads(record(pixels).to_json())) == {
        "imagemill",
        "metadata_version",
        "request_key",
        "spec",
        "environment",
        "pixels_sha256",
        "outcome",
        "prompt_cut",
    }


def test_pixels_of_another_size_or_type_are_refused():
    pixels = picture()
    with pytest.raises(ValueError, match=r"not \(16, 24, 3\) of uint8"):
        encode(pixels[:-1], record(pixels))
    with pytest.raises(ValueError, match="float64"):
        encode(pixels / 2, record(pixels))


def png(pixels: np.ndarray, text: str) -> bytes:
    return write_png(pixels, text={"imagemill": text})


def edited(**changes) -> str:
    document = json.loads(record(picture()).to_json())
    return json.dumps({**document, **changes})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not a PNG, JPEG or WebP file"),
        (b"GIF89a" + bytes(40), "not a PNG, JPEG or WebP file"),
        (write_png(picture(), text={}), "no imagemill record"),
        (png(picture(), "{"), "record can't be read"),
        (png(picture(), "[" * 100_000), "record can't be read"),
        (png(picture(), "[1]"), "record can't be read"),
        (png(picture(), edited(spec={"surprise": 1})), "unknown fields"),
        (png(picture(), edited(metadata_version=99)), "layout 99"),
        (png(picture(), edited(request_key="0" * 64)), "request key does not match"),
        (png(picture(), edited(environment=None)), "record can't be read"),
        (png(picture(8, 8), edited()), "size is not the one"),
        (png(picture()[::-1], edited()), "pixels are not those"),
        (encode(picture(), record(picture())).body[:-100], "damaged"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(body, message, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(body)
    with pytest.raises(RecordError, match=message) as caught:
        read_record(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(RecordError, match="there is no such file"):
        read_record(tmp_path / "nothing.png")


def test_a_decompression_bomb_is_not_decoded():
    def bomb(side: int) -> bytes:
        body = bytearray(png(picture(), edited()))
        body[16:24] = struct.pack(">II", side, side)
        body[29:33] = struct.pack(">I", zlib.crc32(bytes(body[12:29])))
        return bytes(body)

    with pytest.raises(RecordError, match="5000x5000 is more than the 16777216 pixels allowed"):
        read_record(bomb(5000))
    with pytest.raises(RecordError, match="decompression bomb"):
        read_record(bomb(60_000))
    with pytest.raises(RecordError, match="more than the 100 pixels"):
        read_record(png(picture(), edited()), max_pixels=100)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), which=st.sampled_from(FILES))
def test_a_damaged_file_is_read_or_refused_never_a_traceback(data, which):
    pixels = picture()
    body = bytearray(encode(pixels, record(pixels, format=which[0], quality=which[1])).body)
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(body)))
    with contextlib.suppress(RecordError):  # any other exception fails the test
        read_record(bytes(body[:end]))


def test_extended_xmp_is_found_in_any_order():
    text = json.dumps({"long": "x" * 200_000})
    segments, rest = [], xmp.jpeg_segments(text, source_type=True)
    while rest:
        size = 2 + struct.unpack(">H", rest[2:4])[0]
        segments.append(rest[4:size])
        rest = rest[size:]
    assert len(segments) == 5
    assert xmp.find_jpeg_record(reversed(segments)) == text
    assert xmp.find_jpeg_record(segments[:3]) is None
    assert xmp.find_jpeg_record([]) is None


VERSION_1 = Path(__file__).parent / "version_1"
"""Files as the first version of the metadata had them, before they said what made them."""


@pytest.mark.parametrize(("suffix", "quality"), [("png", None), ("jpg", 60), ("webp", None)])
def test_files_of_the_first_version_are_read_as_ever(suffix, quality):
    path = VERSION_1 / f"picture.{suffix}"
    found, pixels = read_record(path)
    format_ = "jpeg" if suffix == "jpg" else suffix
    old = replace(record(picture(), format=format_, quality=quality), metadata_version=1)
    assert found == old
    assert found.request_key == old.spec.request_keys()[-1]
    if format_ != "jpeg":
        assert np.array_equal(pixels, picture())
    assert SOURCE_TYPE.encode() not in path.read_bytes()


@pytest.mark.parametrize(("suffix", "quality"), [("png", None), ("jpg", 60), ("webp", None)])
def test_a_request_of_the_first_version_still_gets_such_a_file(suffix, quality):
    """An old job's images are rendered by this version: equal requests, equal bytes."""
    format_ = "jpeg" if suffix == "jpg" else suffix
    old = replace(record(picture(), format=format_, quality=quality), metadata_version=1)
    body = encode(picture(), old).body
    before = Image.open(VERSION_1 / f"picture.{suffix}")
    now = Image.open(BytesIO(body))
    assert now.info.keys() == before.info.keys()
    for name in ("parameters", "imagemill", "xmp", "exif"):
        assert now.info.get(name) == before.info.get(name)


@pytest.mark.parametrize(("format_", "quality"), FILES)
def test_every_file_says_that_a_machine_made_it(format_, quality):
    body = encode(picture(), record(picture(), format=format_, quality=quality)).body
    info = Image.open(BytesIO(body)).info
    packet = info[PNG_XMP_KEY] if format_ == "png" else info["xmp"]
    found = ElementTree.fromstring(packet).iter(
        "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    )
    assert [each.text for each in found] == [SOURCE_TYPE]


def test_a_jpeg_says_it_before_a_record_of_any_length():
    pixels = picture()
    written = record(pixels, prompt="猫, " * 8000, format="jpeg")
    body = encode(pixels, written).body
    first = next(data for _, data in Image.open(BytesIO(body)).applist if b"ns.adobe.com" in data)
    assert SOURCE_TYPE.encode() in first
    assert read_record(body)[0] == written
