"""The contact sheet: everything is on it, in its place, whatever the prompts hold."""

import io
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFont

from imagemill.scheduler_jobs.pages import fonts as lettering
from imagemill.scheduler_jobs.pages.contact_sheet import (
    DEAD_INK,
    DEAD_PAPER,
    FAINT,
    GAP,
    INK,
    MARGIN,
    SMALL_TEXT,
    Tile,
    contact_sheet,
)
from imagemill.scheduler_jobs.pages.fonts import ELLIPSIS, Lettering


def file(colour: str, size: tuple[int, int] = (8, 8), format_: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format_)
    return buffer.getvalue()


def colours(picture: Image.Image) -> set[str]:
    return {"#{:02x}{:02x}{:02x}".format(*rgb) for _, rgb in picture.getcolors(1 << 20)}


def test_pictures_stand_in_reading_order():
    tiles = [Tile(image=file(c), caption=c) for c in ("red", "lime", "blue")]
    sheet = contact_sheet(tiles, columns=2, tile_size=64)
    assert sheet.width == 2 * MARGIN + 2 * 64 + GAP
    found = [
        name
        for y in range(sheet.height)
        for name in ("red", "lime", "blue")
        if ImageColor.getrgb(name) in {sheet.getpixel((x, y)) for x in range(sheet.width)}
    ]
    assert list(dict.fromkeys(found)) == ["red", "lime", "blue"]
    middle = MARGIN + 32
    column = [sheet.getpixel((middle, y)) for y in range(sheet.height)]
    assert ImageColor.getrgb("red") in column
    assert ImageColor.getrgb("blue") in column
    assert ImageColor.getrgb("lime") not in column


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_pictures_keep_their_proportions(format_):
    tile = Tile(image=file("black", (80, 20), format_), caption="")
    sheet = contact_sheet([tile], columns=1, tile_size=100)
    dark = sheet.convert("L").point(lambda v: 255 * (v < 60))
    left, top, right, bottom = dark.getbbox()
    # One pixel on each side is the frame.
    assert (right - left, bottom - top) == (98, 23)


def test_a_dead_image_and_a_broken_file_say_why():
    tiles = [
        Tile(image=None, caption="a cat", note="out_of_memory: too big"),
        Tile(image=b"no picture", caption="a dog"),
        Tile(image=file("red")[:-30], caption="cut"),
    ]
    for tile in tiles:
        found = colours(contact_sheet([tile], columns=1))
        assert {DEAD_PAPER, DEAD_INK} <= found


def test_a_note_stands_beside_the_label_of_a_picture():
    plain = contact_sheet([Tile(image=file("red"), caption="", label="row 1")], columns=1)
    noted = contact_sheet(
        [Tile(image=file("red"), caption="", label="row 1", note="truncated")], columns=1
    )
    assert DEAD_INK not in colours(plain)
    assert DEAD_INK in colours(noted)
    assert DEAD_PAPER not in colours(noted)
    assert noted.size == plain.size


def test_a_note_that_would_cut_the_label_stands_below_it():
    def ink(tile: Tile, colour: str) -> int:
        sheet = contact_sheet([tile], columns=1, tile_size=192)
        return {rgb: n for n, rgb in sheet.getcolors(1 << 20)}[ImageColor.getrgb(colour)]

    shown = {"image": file("red"), "caption": "", "label": "image 1042 · a-long-key"}
    alone = Tile(**shown, details="seed 7")
    noted = Tile(**shown, details="seed 7", note="truncated_prompt")
    assert ink(noted, DEAD_INK)
    assert ink(noted, FAINT) == ink(alone, FAINT)  # nothing of the label is cut
    crowded = Tile(**shown, details="seed 18446744073709551615", note="truncated_prompt")
    assert ink(crowded, DEAD_INK) == ink(noted, DEAD_INK)


def test_a_line_of_facts_ends_with_a_whole_one():
    def sheet(details: str) -> Image.Image:
        tile = Tile(image=file("red"), caption="", label="image 1", details=details)
        return contact_sheet([tile], columns=1, tile_size=192)

    cut = sheet("dpmpp_2m · g 7.5 · 30 steps · seed 18446744073709551615")
    assert not ImageChops.difference(cut, sheet("dpmpp_2m · g 7.5 · 30 steps")).getbbox()
    assert ImageChops.difference(cut, sheet("dpmpp_2m · g 7.5")).getbbox()


def test_a_note_leaves_the_image_s_number_whole():
    def sheet(label: str) -> Image.Image:
        tile = {"caption": "", "details": "seed 4142303183", "note": "truncated_prompt"}
        return contact_sheet([Tile(image=file("red"), label=label, **tile)], tile_size=192)

    difference = ImageChops.difference(sheet("image 221 · long"), sheet("image 221")).getbbox()
    # Where the font has room for it, a mark of the cut follows.
    assert difference is None or difference[0] >= _end_of("image 221")


def _end_of(text: str) -> int:
    """Where a small line of the first tile's ends that says this."""
    return MARGIN + Lettering.load(SMALL_TEXT).length(text)


def test_a_sheet_of_nothing_is_still_a_sheet():
    empty = contact_sheet([], title="job 1")
    assert INK in colours(empty)
    assert empty.height > 2 * MARGIN


def test_tiles_are_taken_one_row_at_a_time():
    taken = []

    def tiles():
        for number in range(9):
            taken.append(number)
            yield Tile(image=file("red"), caption=str(number))

    assert contact_sheet(tiles(), columns=4).height > 3 * 192
    assert taken == list(range(9))


def test_impossible_sheets_are_refused():
    with pytest.raises(ValueError, match="at least one column"):
        contact_sheet([], columns=0)


AWKWARD = [
    "",
    " ",
    "\n\t\r",
    "\0\x1b[31m\x7f\x9b",
    "\ud800 lone",
    "\u202egnp.exe",
    "😀👩‍👩‍👧‍👦🏳️‍🌈",
    "猫が椅子に座っている" * 50,
    "مرحبا بالعالم " * 30,
    "a" * 100_000,
    "z\u0301\u0302" * 400,
    "\U0010ffff",
    "ﷺ",
]


@pytest.mark.parametrize("fallback", [False, True], ids=["installed fonts", "Pillow's font"])
@pytest.mark.parametrize("text", AWKWARD)
def test_no_prompt_stops_a_sheet(text, fallback, monkeypatch):
    if fallback:
        monkeypatch.setattr(lettering, "_truetype", lambda name, size: None)
    tile = Tile(image=file("red"), caption=text, label=text, note=text)
    dead = Tile(image=None, caption=text, label=text, note=text)
    sheet = contact_sheet([tile, dead], columns=2, title=text, subtitle=text)
    assert ImageColor.getrgb("red") in {rgb for _, rgb in sheet.getcolors(1 << 20)}
    # Three lines of caption at most, so no prompt makes a sheet long.
    assert sheet.height < 500


@settings(max_examples=60, deadline=None)
@given(text=st.text(), width=st.integers(1, 300), lines=st.integers(1, 4))
def test_lines_fit_and_are_few(text, width, lines):
    font = Lettering.load(14)
    found = font.wrap(text, width=width, lines=lines)
    assert len(found) <= lines
    for line in found:
        assert font.length(line) <= width or len(line.removesuffix(ELLIPSIS)) <= 1


def test_text_is_cut_between_words_and_says_so():
    font = Lettering.load(14)
    whole = font.wrap("a red circle on a blue background", width=120, lines=9)
    assert " ".join(whole) == "a red circle on a blue background"
    assert len(whole) > 1
    cut = font.wrap("a red circle on a blue background", width=120, lines=1)
    assert cut[0].startswith("a red circle")
    assert cut[0].endswith(ELLIPSIS)
    assert font.wrap("a red circle", width=300, lines=1) == ["a red circle"]


def test_what_no_font_has_becomes_plainer_and_controls_vanish(monkeypatch):
    monkeypatch.setattr(lettering, "_truetype", lambda name, size: None)
    font = Lettering.load(14)
    (line,) = font.wrap("a \U00012000\x1b\u202e b\u200bc é — ﬁ", width=400, lines=1)
    assert line.translate({ord("□"): "?", ord("é"): "e", ord("—"): "-", ord("ﬁ"): "fi"}) == (
        "a ? bc e - fi"
    )


def test_installed_fonts_come_first():
    if lettering._truetype("DejaVuSans.ttf", 14) is None:
        pytest.skip("DejaVu is not installed here")
    (line,) = Lettering.load(14).wrap("Привет ελ → ✓", width=400, lines=1)
    assert line == "Привет ελ → ✓"


def test_pillows_own_font_is_always_there():
    assert isinstance(Lettering.load(14).fonts[-1], ImageFont.FreeTypeFont | ImageFont.ImageFont)


def test_the_sheet_needs_no_torch():
    code = "import sys, imagemill.scheduler_jobs.pages.contact_sheet; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "False"


def test_packaged_fonts_draw_chinese_japanese_korean_and_emoji(monkeypatch):
    for package, _ in lettering.WHEELS:
        pytest.importorskip(package)
    # As on a machine that has no fonts of its own.
    real = ImageFont.truetype
    monkeypatch.setattr(
        lettering, "_truetype", lambda name, size: real(name, size) if "/" in name else None
    )
    font = Lettering.load(14)
    text = "白い円 红色 빨간 🐈🎨😀 and \U00012000"
    assert font.lacking(text) == {"\U00012000"}
    drawn = Image.new("RGB", (400, 40), "#ffffff")
    font.draw(ImageDraw.Draw(drawn), (10, 10), "白い円🐈", "#000000")
    box = ImageChops.difference(drawn, Image.new("RGB", drawn.size, "#ffffff")).getbbox()
    assert box is not None
    assert box[2] - box[0] > 40, "four characters, each as wide as it is high"


def test_without_fonts_the_characters_are_named(monkeypatch):
    monkeypatch.setattr(lettering, "_truetype", lambda name, size: None)
    assert Lettering.load(14).lacking("a é 白 \ufe0f\u200b □") == {"白"}
