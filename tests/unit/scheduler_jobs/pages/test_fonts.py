"""Lettering: what is drawn stays within its line, whatever fonts a machine has."""

import pytest
from PIL import Image, ImageDraw, ImageFont

from imagemill.scheduler_jobs.pages.fonts import BOLD_FONTS, FONTS, Font, Lettering, packaged

_SIZES = (13, 14, 28)
_LETTERS = "bdgjpqy,;"


def _fonts(size: int) -> list[tuple[str, Font]]:
    """The fonts of this machine that may be the first of a lettering."""
    found: list[tuple[str, Font]] = [("Pillow's own", ImageFont.load_default(size))]
    for name in (*FONTS, *BOLD_FONTS, *packaged()):
        try:
            found.append((name, ImageFont.truetype(name, size)))
        except OSError:
            continue
    return found


def _ink(lettering: Lettering, text: str) -> tuple[int, int]:
    """The first and the last row, counted from the top of the line, that the text touches."""
    page = Image.new("L", (600, 200), 0)
    lettering.draw(ImageDraw.Draw(page), (10, 100), text, "white")
    box = page.getbbox()
    assert box is not None
    return box[1] - 100, box[3] - 101


@pytest.mark.parametrize("size", _SIZES)
def test_letters_stay_within_their_line(size: int) -> None:
    line_height = Lettering.load(size).line_height
    for name, font in _fonts(size):
        lettering = Lettering(fonts=(font,), line_height=line_height)
        if lettering.lacking(_LETTERS):
            continue  # a font of symbols is never the first
        first, last = _ink(lettering, _LETTERS)
        assert last < line_height, name
        assert first >= 0, name
