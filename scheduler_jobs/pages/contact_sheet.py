"""A contact sheet: many pictures on one page, with their prompts under them.

Prompts may contain anything. A sheet is always made, with the characters that the fonts of this
machine have.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from PIL import Image, ImageDraw

from imagemill.scheduler_jobs.pages.fonts import Lettering

PAPER = "#faf9f7"
INK = "#1f2328"
FAINT = "#82878f"
FRAME = "#dcdad5"
DEAD_PAPER = "#f6e4e0"
DEAD_INK = "#9d3425"

MARGIN = 32
GAP = 20
NOTE_GAP = 8
_WIDEST = 1 << 14
"""Pixels of a line that nothing cuts."""
CAPTION_LINES = 3
SMALL_TEXT, TEXT, TITLE_TEXT = 12, 14, 24
_BETWEEN_FACTS = " · "


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One place on the sheet.

    `image` is the file's bytes, or None if the image has no picture; then `note` says why. `label`
    is the small line above the caption that names the image. If there is a picture, `note` is at
    the right end of that line. `details` is the line below: seed, sampler and so on.
    """

    image: bytes | None
    caption: str
    label: str = ""
    details: str = ""
    note: str = ""


class _Page(NamedTuple):
    tile: int
    columns: int
    small: Lettering
    text: Lettering
    title: Lettering

    @property
    def width(self) -> int:
        return page_width(self.columns, self.tile)


def contact_sheet(
    tiles: Iterable[Tile],
    *,
    columns: int = 6,
    tile_size: int = 192,
    title: str = "",
    subtitle: str = "",
) -> Image.Image:
    """One RGB picture with the tiles in reading order. A sheet without tiles says so.

    Pictures keep their proportions within `tile_size` x `tile_size` pixels. Files are decoded one
    row at a time, so `tiles` may be an iterator that fetches them. The sheet itself is in memory.
    A file that can't be decoded becomes a tile that says so. Raises `ValueError` for less than one
    column or tiles of less than 32 pixels.
    """
    if columns < 1 or tile_size < 32:
        raise ValueError("a contact sheet needs at least one column, and tiles of 32 pixels")
    page = _Page(
        tile_size,
        columns,
        Lettering.load(SMALL_TEXT),
        Lettering.load(TEXT),
        Lettering.load(TITLE_TEXT, bold=True),
    )
    strips = [_strip(page, row) for row in _rows(tiles, columns)]
    head = _head(page, title, subtitle if strips else subtitle or "no images")
    height = MARGIN + sum(part.height + GAP for part in (head, *strips)) - GAP + MARGIN
    sheet = Image.new("RGB", (page.width, height), PAPER)
    top = MARGIN
    for part in (head, *strips):
        sheet.paste(part, (0, top))
        top += part.height + GAP
    return sheet


def row_height(tile_size: int) -> int:
    """The greatest height of a row of tiles in pixels, with the gap to the next row."""
    small, text = Lettering.load(SMALL_TEXT), Lettering.load(TEXT)
    captions = 2 * small.line_height + CAPTION_LINES * text.line_height
    return tile_size + 10 + captions + GAP


def head_height() -> int:
    """The greatest height of margins, title and subtitle together, in pixels."""
    title, text = Lettering.load(TITLE_TEXT, bold=True), Lettering.load(TEXT)
    return 2 * MARGIN + title.line_height + 2 * text.line_height + GAP


def page_width(columns: int, tile_size: int) -> int:
    """The width of a page in pixels."""
    return 2 * MARGIN + columns * tile_size + (columns - 1) * GAP


def _rows(tiles: Iterable[Tile], columns: int) -> Iterator[list[Tile]]:
    rest = iter(tiles)
    while row := list(islice(rest, columns)):
        yield row


def _head(page: _Page, title: str, subtitle: str) -> Image.Image:
    lines = [
        (page.title, page.title.wrap(title, width=page.width - 2 * MARGIN, lines=1), INK),
        (page.text, page.text.wrap(subtitle, width=page.width - 2 * MARGIN, lines=2), FAINT),
    ]
    height = sum(lettering.line_height * len(texts) for lettering, texts, _ in lines)
    head = Image.new("RGB", (page.width, max(height, 1)), PAPER)
    draw = ImageDraw.Draw(head)
    top = 0
    for lettering, texts, colour in lines:
        for text in texts:
            lettering.draw(draw, (MARGIN, top), text, colour)
            top += lettering.line_height
    return head


def _strip(page: _Page, row: list[Tile]) -> Image.Image:
    """One row of tiles; its height fits its longest caption."""
    row = [replace(tile, details=_whole_facts(tile.details, page)) for tile in row]
    captions = [page.text.wrap(t.caption, width=page.tile, lines=CAPTION_LINES) for t in row]
    labelled = any(tile.label or (tile.note and tile.image) for tile in row)
    text_top = page.tile + 8
    details_top = text_top + (page.small.line_height if labelled else 0)
    detailed = any(tile.details for tile in row)
    small_lines = labelled + detailed
    caption_top = text_top + (small_lines * page.small.line_height + 2 if small_lines else 0)
    height = caption_top + max(map(len, captions)) * page.text.line_height
    strip = Image.new("RGB", (page.width, height), PAPER)
    draw = ImageDraw.Draw(strip)
    for column, (tile, caption) in enumerate(zip(row, captions, strict=True)):
        left = MARGIN + column * (page.tile + GAP)
        _draw_picture(strip, (left, 0), tile, page.tile, page.small)
        notes = _notes(tile, page.tile, page.small)
        for top, text, note in zip(
            (text_top, details_top), (tile.label, tile.details), notes, strict=True
        ):
            _draw_line(draw, (left, top), text, note, page.tile, page.small)
        for number, text in enumerate(caption):
            place = (left, caption_top + number * page.text.line_height)
            page.text.draw(draw, place, text, INK)
    return strip


def _whole_facts(details: str, page: _Page) -> str:
    """The first facts of a line that fit beside each other; a part of a fact tells nothing."""
    facts = details.split(_BETWEEN_FACTS)
    while len(facts) > 1 and page.small.length(_BETWEEN_FACTS.join(facts)) > page.tile:
        facts.pop()
    return _BETWEEN_FACTS.join(facts)


def draw_tile(sheet: Image.Image, place: tuple[int, int], tile: Tile, side: int) -> None:
    """Draw a tile's picture with its top left corner at `place`, and its label line below it."""
    small = Lettering.load(SMALL_TEXT)
    _draw_picture(sheet, place, tile, side, small)
    note = "" if tile.image is None else tile.note
    place = (place[0], place[1] + side + 6)
    _draw_line(ImageDraw.Draw(sheet), place, tile.label, note, side, small)


def _draw_picture(
    sheet: Image.Image, place: tuple[int, int], tile: Tile, side: int, small: Lettering
) -> None:
    """Paste the tile's picture, or say why there is none."""
    if tile.image is None:
        _placeholder(sheet, place, tile.note or "no picture", side, small)
        return
    try:
        with Image.open(io.BytesIO(tile.image)) as opened:
            picture = _fitted(opened.convert("RGB"), side)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        _placeholder(sheet, place, "the file can't be read as a picture", side, small)
        return
    x = place[0] + (side - picture.width) // 2
    y = place[1] + (side - picture.height) // 2
    sheet.paste(picture, (x, y))
    box = (x, y, x + picture.width - 1, y + picture.height - 1)
    ImageDraw.Draw(sheet).rectangle(box, outline=FRAME)


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _placeholder(
    sheet: Image.Image, place: tuple[int, int], why: str, side: int, small: Lettering
) -> None:
    draw = ImageDraw.Draw(sheet)
    left, top = place
    draw.rectangle((left, top, left + side - 1, top + side - 1), fill=DEAD_PAPER)
    inset = 12
    room = max(1, (side - 2 * inset) // small.line_height)
    texts = small.wrap(why, width=side - 2 * inset, lines=room)
    top += (side - len(texts) * small.line_height) // 2
    for number, text in enumerate(texts):
        small.draw(draw, (left + inset, top + number * small.line_height), text, DEAD_INK)


def _notes(tile: Tile, side: int, small: Lettering) -> tuple[str, str]:
    """The note beside the label, or beside the details where only these leave room for it."""
    if tile.image is None:
        return "", ""

    def fits(text: str, width: int) -> bool:
        whole = small.wrap(text, width=_WIDEST, lines=1)
        return small.wrap(text, width=width, lines=1) == whole

    shown = small.wrap(tile.note, width=2 * side // 3, lines=1)
    room = side - sum(small.length(note) + NOTE_GAP for note in shown)
    if tile.details and not fits(tile.label, room) and fits(tile.details, room):
        return "", tile.note
    return tile.note, ""


def _draw_line(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    note: str,
    side: int,
    small: Lettering,
) -> None:
    """One small line below a picture, with its note at the right end."""
    width = side
    for shown in small.wrap(note, width=2 * side // 3, lines=1):
        width -= small.length(shown) + NOTE_GAP
        small.draw(draw, (place[0] + width + NOTE_GAP, place[1]), shown, DEAD_INK)
    for shown in small.wrap(text, width=width, lines=1):
        # `image 12` tells more than `image…`.
        first = text.split(_BETWEEN_FACTS, maxsplit=1)[0]
        cut = not shown.startswith(first) and small.wrap(first, width=width, lines=1) == [first]
        small.draw(draw, place, first if cut else shown, FAINT)
