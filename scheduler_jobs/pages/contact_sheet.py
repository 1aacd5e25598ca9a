"""A contact sheet: many pictures on one page, with their prompts under them.

Prompts may contain anything. A sheet is always made, with the characters that the fonts of this
machine have.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
CAPTION_LINES = 3
SMALL_TEXT, TEXT, TITLE_TEXT = 12, 14, 24


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
        why = _picture(page, strip, left, tile)
        if why:
            _placeholder(page, draw, left, why)
        _label(page, draw, (left, text_top), tile)
        for details in page.small.wrap(tile.details, width=page.tile, lines=1):
            page.small.draw(draw, (left, details_top), details, FAINT)
        for number, text in enumerate(caption):
            place = (left, caption_top + number * page.text.line_height)
            page.text.draw(draw, place, text, INK)
    return strip


def _picture(page: _Page, strip: Image.Image, left: int, tile: Tile) -> str:
    """Paste the tile's picture. Returns the reason if there is none, else an empty text."""
    if tile.image is None:
        return tile.note or "no picture"
    try:
        with Image.open(io.BytesIO(tile.image)) as opened:
            picture = _fitted(opened.convert("RGB"), page.tile)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "the file can't be read as a picture"
    x = left + (page.tile - picture.width) // 2
    y = (page.tile - picture.height) // 2
    strip.paste(picture, (x, y))
    box = (x, y, x + picture.width - 1, y + picture.height - 1)
    ImageDraw.Draw(strip).rectangle(box, outline=FRAME)
    return ""


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _placeholder(page: _Page, draw: ImageDraw.ImageDraw, left: int, why: str) -> None:
    side = page.tile
    draw.rectangle((left, 0, left + side - 1, side - 1), fill=DEAD_PAPER)
    inset = 12
    room = max(1, (side - 2 * inset) // page.small.line_height)
    texts = page.small.wrap(why, width=side - 2 * inset, lines=room)
    top = (side - len(texts) * page.small.line_height) // 2
    for number, text in enumerate(texts):
        place = (left + inset, top + number * page.small.line_height)
        page.small.draw(draw, place, text, DEAD_INK)


def _label(page: _Page, draw: ImageDraw.ImageDraw, place: tuple[int, int], tile: Tile) -> None:
    width = page.tile
    if tile.image is not None:
        for note in page.small.wrap(tile.note, width=2 * page.tile // 3, lines=1):
            width -= page.small.length(note) + 8
            page.small.draw(draw, (place[0] + width + 8, place[1]), note, DEAD_INK)
    for label in page.small.wrap(tile.label, width=width, lines=1):
        page.small.draw(draw, place, label, FAINT)
