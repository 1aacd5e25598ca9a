"""A grid of pictures with two axes: one value of a parameter in each column, one in each row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from imagemill.scheduler_jobs.pages.contact_sheet import (
    FAINT,
    FRAME,
    GAP,
    INK,
    MARGIN,
    PAPER,
    SMALL_TEXT,
    TEXT,
    TITLE_TEXT,
    Tile,
    draw_tile,
)
from imagemill.scheduler_jobs.pages.fonts import Lettering

_CELL_GAP = 8
_MOST_LABEL = 220
"""The widest a row's value may be, in pixels; a longer one gets more lines."""

_LABEL_LINES = 4
_TITLE_LINES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """An axis: the parameter's name, and its values as texts in order."""

    title: str
    values: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class GridSheet:
    """What stands around the cells, and how large a cell is, in pixels."""

    title: str
    subtitle: str
    x: Axis
    y: Axis
    tile_size: int = 192

    def draw(self, cell: Callable[[int, int], Tile | None]) -> Image.Image:
        """The page as one RGB picture; `cell(column, row)` is asked row by row."""
        head = self._head()
        left, columns = self._left(), self._column_heads()
        top = MARGIN + head.height + GAP
        first = top + columns.height + _CELL_GAP
        sheet = Image.new("RGB", self.size(), PAPER)
        sheet.paste(head, (MARGIN, MARGIN))
        sheet.paste(columns, (left, top))
        draw = ImageDraw.Draw(sheet)
        self._y_title(sheet, first)
        for row, value in enumerate(self.y.values):
            at = first + row * self._cell_height
            self._row_head(draw, left, at, value)
            for column in range(len(self.x.values)):
                place = (left + column * (self.tile_size + _CELL_GAP), at)
                tile = cell(column, row)
                if tile is None:
                    box = (*place, place[0] + self.tile_size - 1, at + self.tile_size - 1)
                    draw.rectangle(box, outline=FRAME)
                else:
                    draw_tile(sheet, place, tile, self.tile_size)
        return sheet

    def size(self) -> tuple[int, int]:
        """Width and height of the page in pixels."""
        cells = len(self.x.values) * (self.tile_size + _CELL_GAP) - _CELL_GAP
        height = MARGIN + self._head().height + GAP + self._column_heads().height + _CELL_GAP
        rows = len(self.y.values) * self._cell_height
        return self._left() + cells + MARGIN, height + rows + MARGIN

    @property
    def _cell_height(self) -> int:
        """A picture, the small line below it, and the gap to the next row."""
        return self.tile_size + 6 + Lettering.load(SMALL_TEXT).line_height + _CELL_GAP

    @property
    def _label_width(self) -> int:
        text = Lettering.load(TEXT)
        lines = [
            line
            for value in self.y.values
            for line in text.wrap(value, width=_MOST_LABEL, lines=_LABEL_LINES)
        ]
        return max(map(text.length, lines), default=0)

    def _left(self) -> int:
        """Where the first column begins: after the rows' title and their values."""
        return MARGIN + Lettering.load(TEXT).line_height + GAP // 2 + self._label_width + GAP // 2

    def _head(self) -> Image.Image:
        bold, text = Lettering.load(TITLE_TEXT, bold=True), Lettering.load(TEXT)
        cells = len(self.x.values) * (self.tile_size + _CELL_GAP) - _CELL_GAP
        width = self._left() - MARGIN + cells
        lines = [
            *((bold, line, INK) for line in bold.wrap(self.title, width=width, lines=_TITLE_LINES)),
            *((text, line, FAINT) for line in text.wrap(self.subtitle, width=width, lines=2)),
        ]
        height = sum(lettering.line_height for lettering, _, _ in lines)
        return _lines((width, max(1, height)), lines)

    def _column_heads(self) -> Image.Image:
        """The columns' title, and below it their values, each over the middle of its column."""
        bold, text = Lettering.load(TEXT, bold=True), Lettering.load(TEXT)
        wrapped = [text.wrap(v, width=self.tile_size, lines=2) or [""] for v in self.x.values]
        cells = len(self.x.values) * (self.tile_size + _CELL_GAP) - _CELL_GAP
        height = bold.line_height + 4 + max(map(len, wrapped)) * text.line_height
        strip = Image.new("RGB", (cells, height), PAPER)
        draw = ImageDraw.Draw(strip)
        for title in bold.wrap(self.x.title, width=cells, lines=1):
            bold.draw(draw, ((cells - bold.length(title)) // 2, 0), title, INK)
        for column, lines in enumerate(wrapped):
            for number, line in enumerate(lines):
                left = column * (self.tile_size + _CELL_GAP)
                middle = left + (self.tile_size - text.length(line)) // 2
                top = bold.line_height + 4 + number * text.line_height
                text.draw(draw, (middle, top), line, INK)
        return strip

    def _row_head(self, draw: ImageDraw.ImageDraw, left: int, top: int, value: str) -> None:
        """A row's value, at the right end of its column, level with the middle of the pictures."""
        text = Lettering.load(TEXT)
        lines = text.wrap(value, width=self._label_width, lines=_LABEL_LINES)
        at = top + (self.tile_size - len(lines) * text.line_height) // 2
        for number, line in enumerate(lines):
            place = (left - GAP // 2 - text.length(line), at + number * text.line_height)
            text.draw(draw, place, line, INK)

    def _y_title(self, sheet: Image.Image, first: int) -> None:
        """The rows' title, turned, level with the middle of all rows."""
        bold = Lettering.load(TEXT, bold=True)
        length = len(self.y.values) * self._cell_height - _CELL_GAP
        for title in bold.wrap(self.y.title, width=length, lines=1):
            turned = _lines((bold.length(title), bold.line_height), [(bold, title, INK)])
            turned = turned.rotate(90, expand=True)
            sheet.paste(turned, (MARGIN, first + (length - turned.height) // 2))


def _lines(size: tuple[int, int], lines: Sequence[tuple[Lettering, str, str]]) -> Image.Image:
    """Lines of text below each other on a strip of paper, each in its lettering and colour."""
    strip = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(strip)
    top = 0
    for lettering, line, colour in lines:
        lettering.draw(draw, (0, top), line, colour)
        top += lettering.line_height
    return strip
