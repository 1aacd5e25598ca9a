"""The command lines that documents show: in blocks of code, and in the text."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.places import ROOT

PAGES = (
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *(ROOT / "deploy" / "README.md", ROOT / "deploy" / "kubernetes" / "README.md"),
    ROOT / "examples" / "README.md",
)

_BLOCK = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.M | re.S)
_SHELLS = {"sh", "bash", "console", ""}
_INLINE = re.compile(r"`([^`\n]+)`")
_WITHIN = re.compile(r"\$\(([^()]*)\)")
_VARIABLE = re.compile(r"\$\w+")
_PROGRAMS = {"imagemill", ".venv/bin/imagemill"}
_OTHERS = {"createdb", "kubectl", "pip", "psql", "useradd"}
"""Programs with arguments that are called imagemill."""
_BETWEEN = set(";|&()<>\n")


@dataclass(frozen=True)
class CommandLine:
    """One call of `imagemill`: its words without the program's name, and where it stands."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: imagemill {shlex.join(self.words)}"


def in_blocks(page: Path) -> Iterator[CommandLine]:
    """Every call of `imagemill` in the page's blocks of shell lines."""
    for kind, block in _BLOCK.findall(page.read_text("utf-8")):
        for line in block.replace("\\\n", " ").splitlines() if kind in _SHELLS else ():
            if kind != "console" or line.startswith("$ "):
                yield from _calls(page, line.removeprefix("$ "))


def in_text(page: Path) -> Iterator[CommandLine]:
    """Every call of `imagemill` in code within the page's text; it may hold placeholders."""
    for code in _INLINE.findall(_BLOCK.sub("", page.read_text("utf-8"))):
        if code.startswith("imagemill "):
            yield from _calls(page, code.replace("…", "").replace("\\|", "|"))


def _calls(page: Path, line: str) -> Iterator[CommandLine]:
    for within in _WITHIN.findall(line):
        yield from _calls(page, within)
    try:
        lexer = shlex.shlex(
            _VARIABLE.sub("1", _WITHIN.sub("1", line)), posix=True, punctuation_chars=True
        )
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:
        return  # a line of a text over several, such as a here-document's
    for call in _divided(words):
        starts = [at for at, word in enumerate(call) if word in _PROGRAMS]
        if starts and call[0] not in _OTHERS:
            name = str(page.relative_to(ROOT))
            yield CommandLine(page=name, words=tuple(call[starts[0] + 1 :]))


def _divided(words: list[str]) -> Iterator[list[str]]:
    """The words between `;`, `|`, `&&` and redirections."""
    call: list[str] = []
    for word in words:
        if word and set(word) <= _BETWEEN:
            yield call
            call = []
        else:
            call.append(word)
    yield call
