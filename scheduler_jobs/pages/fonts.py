"""Text on pictures: a font that this machine has, and lines that fit.

DejaVu or Noto where they are installed, else the ASCII font that Pillow brings. A character that
the font lacks is drawn as its plainer form ("e" for "é") or as a small box, a control character
or a bidirectional override not at all.
"""

import unicodedata
from dataclasses import dataclass, field

from PIL import ImageDraw, ImageFont

FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf")
BOLD_FONTS = ("DejaVuSans-Bold.ttf", "NotoSans-Bold.ttf")
CJK_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-microhei.ttc")

ELLIPSIS = "…"

_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs"})
_NO_FONT_HAS = "\U0010ffff"
_LONGEST_TEXT = 2000
"""Characters of a text that are looked at: more fill no tile."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, kw_only=True)
class Lettering:
    """Fonts of one size; a line is drawn in the first that has most of its characters."""

    fonts: tuple[Font, ...]
    line_height: int
    _known: dict[tuple[int, str], bool] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, size: int, *, bold: bool = False) -> "Lettering":
        """The fonts found on this machine, `size` pixels high."""
        names = (*(BOLD_FONTS if bold else ()), *FONTS, *CJK_FONTS)
        fonts: list[Font] = [font for name in names if (font := _truetype(name, size))]
        fonts.append(ImageFont.load_default(size))
        return cls(fonts=tuple(fonts), line_height=round(size * 1.3))

    def length(self, text: str) -> int:
        """The width of a line in pixels, rounded up."""
        return int(-(-self._font(text).getlength(text) // 1))

    def draw(
        self, draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: str
    ) -> None:
        """Draw one line, as `wrap` gives it, with its top left corner at `place`."""
        draw.text(place, text, fill=colour, font=self._font(text))

    def wrap(self, text: str, *, width: int, lines: int) -> list[str]:
        """At most `lines` lines of at most `width` pixels; what does not fit ends in "…"."""
        shown = self._shown(text)
        found: list[str] = []
        while shown and len(found) < lines:
            line = self._first_line(shown, width)
            rest = shown[len(line) :].strip()
            if rest and len(found) == lines - 1:
                line = self._ended(shown, width)
            found.append(line.strip())
            shown = rest
        return found

    def _shown(self, text: str) -> str:
        spaced = " ".join(text[:_LONGEST_TEXT].split())
        visible = "".join(c for c in spaced if _is_visible(c))
        font = self._font(visible)
        return "".join(self._spelled(font, c) for c in visible).strip()

    def _spelled(self, font: Font, character: str) -> str:
        if self._has(font, character):
            return character
        decomposed = unicodedata.normalize("NFKD", character)
        plain = "".join(c for c in decomposed if not unicodedata.combining(c))
        if unicodedata.category(character) == "Pd":
            plain = "-"
        if plain and all(self._has(font, c) for c in plain):
            return plain
        return "□" if self._has(font, "□") else "?"

    def _first_line(self, text: str, width: int) -> str:
        """The longest beginning that fits, cut between words where there are words."""
        fits = self._fitting(text, width)
        if fits == len(text):
            return text
        space = text.rfind(" ", 0, fits + 1)
        return text[:space] if space > 0 else text[: max(1, fits)]

    def _ended(self, text: str, width: int) -> str:
        beginning = self._first_line(text, width - self.length(ELLIPSIS))
        return beginning.rstrip(" ,.;:") + ELLIPSIS

    def _fitting(self, text: str, width: int) -> int:
        """How many characters from the start fit: bisection, since lengths only grow."""
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            if self.length(text[:middle]) <= width:
                low = middle
            else:
                high = middle - 1
        return low

    def _font(self, text: str) -> Font:
        characters = sorted(set(text))
        return max(self.fonts, key=lambda font: sum(self._has(font, c) for c in characters))

    def _has(self, font: Font, character: str) -> bool:
        key = (id(font), character)
        if key not in self._known:
            self._known[key] = character == " " or _glyph(font, character) != _glyph(
                font, _NO_FONT_HAS
            )
        return self._known[key]


def _truetype(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _is_visible(character: str) -> bool:
    # Variation selectors only choose between looks that these fonts don't have.
    selector = "\ufe00" <= character <= "\ufe0f"
    return not selector and unicodedata.category(character) not in _INVISIBLE


def _glyph(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
