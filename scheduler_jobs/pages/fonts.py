"""Draws text on pictures with the fonts of this machine, and breaks it into lines that fit.

The fonts are DejaVu or Noto, then Noto CJK and Noto Emoji (of the system, or of the packages of
`imagemill[fonts]`), then the ASCII font of Pillow, as far as they are installed. Each character is
drawn in the first font that has it. If no font has it, its plain form is drawn ("e" for "é") or a
small box. Control characters and bidirectional overrides are not drawn.
"""

import unicodedata
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf")
BOLD_FONTS = ("DejaVuSans-Bold.ttf", "NotoSans-Bold.ttf")
CJK_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "NotoSansJP-Regular.otf",
    "wqy-microhei.ttc",
)
EMOJI_FONTS = ("NotoEmoji-Regular.ttf", "NotoEmoji[wght].ttf", "Symbola_hint.ttf", "Symbola.ttf")
COLOUR_EMOJI_FONT = "NotoColorEmoji.ttf"
_COLOUR_EMOJI_SIZE = 109
"""The only size in which that font has its pictures."""

ELLIPSIS = "…"

_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs"})
_NO_FONT_HAS = "\U0010ffff"
_LONGEST_TEXT = 2000
"""The most characters of a text that are used. More never fit into a tile."""
_FIRST_CHARACTERS = 32
"""As many are measured first, and then twice as many each time: about a tile's line."""

WHEELS = (
    ("manimgx_fonts", "NotoSans[wght].ttf"),
    ("noto_cjk_sans_otc", "NotoSansCJK-Regular.ttc"),
    ("manimgx_fonts", "NotoSansSymbols[wght].ttf"),
    ("manimgx_fonts", "NotoEmoji[wght].ttf"),
)
"""Packages of `imagemill[fonts]` with the files in them: a package is data, and not imported."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, kw_only=True)
class Lettering:
    """Fonts of one size. Each character is drawn in the first font that has it."""

    fonts: tuple[Font, ...]
    line_height: int
    size: int = 0
    _known: dict[tuple[int, str], bool] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, size: int, *, bold: bool = False) -> "Lettering":
        """The fonts of this machine, `size` pixels high."""
        names = (*(BOLD_FONTS if bold else ()), *FONTS, *CJK_FONTS, *EMOJI_FONTS)
        fonts: list[Font] = [font for name in names if (font := _truetype(name, size))]
        fonts += [font for name in packaged() if (font := _truetype(name, size))]
        colour = _truetype(COLOUR_EMOJI_FONT, _COLOUR_EMOJI_SIZE)
        if colour is not None:
            fonts.append(colour)
        fonts.append(ImageFont.load_default(size))
        return cls(fonts=tuple(fonts), line_height=round(size * 1.3), size=size)

    def length(self, text: str) -> int:
        """The width of a line in pixels, rounded up."""
        total = sum(self._scale(font) * font.getlength(run) for font, run in self._runs(text))
        return int(-(-total // 1))

    def draw(
        self, draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: str
    ) -> None:
        """Draw one line, as `wrap` returns it, with its top left corner at `place`."""
        left, top = float(place[0]), place[1]
        runs = self._runs(text)
        # All fonts of a line share the baseline of the first, so neighbouring captions are level.
        # A font for CJK keeps so much room above Latin letters that a "g" would leave the line.
        baseline = min(_ascent(self.fonts[0]), self.line_height - _descent(self.fonts[0]))
        for font, run in runs:
            if self._scale(font) != 1:
                left += self._draw_scaled(draw, (round(left), top), font, run)
                continue
            draw.text((left, top + baseline - _ascent(font)), run, fill=colour, font=font)
            left += font.getlength(run)

    def _draw_scaled(
        self, draw: ImageDraw.ImageDraw, place: tuple[int, int], font: Font, text: str
    ) -> float:
        """Draw emoji, scaled from their only size to that of the letters. Returns the width."""
        width = max(1, round(font.getlength(text)))
        drawn = Image.new("RGBA", (width, 2 * _COLOUR_EMOJI_SIZE), (0, 0, 0, 0))
        ImageDraw.Draw(drawn).text((0, 0), text, font=font, embedded_color=True)
        box = drawn.getbbox() or (0, 0, width, _COLOUR_EMOJI_SIZE)
        shown = max(1, round(width * self._scale(font)))
        small = drawn.crop((0, box[1], width, box[3])).resize((shown, self.size))
        draw._image.paste(small, place, small)
        return shown

    def lacking(self, text: str) -> frozenset[str]:
        """The characters of the text that are drawn as boxes, because no font has them."""
        visible = {c for c in text if _is_visible(c) and not c.isspace()}
        return frozenset(c for c in visible if c not in "□?" and self._spelled(c) in {"□", "?"})

    def wrap(self, text: str, *, width: int, lines: int) -> list[str]:
        """At most `lines` lines of at most `width` pixels. "…" marks a text that does not fit."""
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
        return "".join(self._spelled(c) for c in visible).strip()

    def _spelled(self, character: str) -> str:
        if self._known_font(character) is not None:
            return character
        decomposed = unicodedata.normalize("NFKD", character)
        plain = "".join(c for c in decomposed if not unicodedata.combining(c))
        if unicodedata.category(character) == "Pd":
            plain = "-"
        if plain and all(self._known_font(c) is not None for c in plain):
            return plain
        return "□" if self._known_font("□") is not None else "?"

    def _first_line(self, text: str, width: int) -> str:
        """The longest beginning that fits, cut between two words if possible."""
        fits = self._fitting(text, width)
        if fits == len(text):
            return text
        space = text.rfind(" ", 0, fits + 1)
        return text[:space] if space > 0 else text[: max(1, fits)]

    def _ended(self, text: str, width: int) -> str:
        beginning = self._first_line(text, width - self.length(ELLIPSIS))
        return beginning.rstrip(" ,.;:") + ELLIPSIS

    def _fitting(self, text: str, width: int) -> int:
        """How many characters from the start fit, found by bisection: longer texts are wider.

        Few of a long text fit, so its beginning is measured first.
        """
        low, high = 0, _FIRST_CHARACTERS
        while high < len(text) and self.length(text[:high]) <= width:
            low, high = high, 2 * high
        high = min(high, len(text))
        while low < high:
            middle = (low + high + 1) // 2
            if self.length(text[:middle]) <= width:
                low = middle
            else:
                high = middle - 1
        return low

    def _known_font(self, character: str) -> Font | None:
        return next((font for font in self.fonts if self._has(font, character)), None)

    def _runs(self, text: str) -> list[tuple[Font, str]]:
        """The text in pieces with one font each. A space belongs to the first font."""
        runs: list[tuple[Font, str]] = []
        for character in text:
            font = self._known_font(character) or self.fonts[-1]
            if runs and runs[-1][0] is font:
                runs[-1] = font, runs[-1][1] + character
            else:
                runs.append((font, character))
        return runs

    def _scale(self, font: Font) -> float:
        size = getattr(font, "size", self.size)
        return self.size / size if size == _COLOUR_EMOJI_SIZE and size != self.size else 1.0

    def _has(self, font: Font, character: str) -> bool:
        key = (id(font), character)
        if key not in self._known:
            self._known[key] = character == " " or _glyph(font, character) != _glyph(
                font, _NO_FONT_HAS
            )
        return self._known[key]


@cache
def packaged() -> tuple[str, ...]:
    """The paths of the fonts that are installed as packages."""
    found = []
    for package, file in WHEELS:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            path = Path(folder) / file
            if path.is_file():
                found.append(str(path))
    return tuple(found)


def _ascent(font: Font) -> int:
    return font.getmetrics()[0] if isinstance(font, ImageFont.FreeTypeFont) else 0


def _descent(font: Font) -> int:
    return font.getmetrics()[1] if isinstance(font, ImageFont.FreeTypeFont) else 0


@cache
def _truetype(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    """The font, if it is installed. Pillow walks through all folders of fonts to look for it."""
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
