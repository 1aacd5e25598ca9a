r"""Syntax of other tools in a prompt, which would go to the model as words.

A prompt for Midjourney ends with `--ar 16:9`, one for A1111 holds `<lora:x:0.8>`, and a template
that is not expanded holds `{a|b}`. Nothing here reads them, so rows that have any are reported.

Prose has brackets, hashes and colons too: `(16:9)`, `[sic]`, `#1`. So a pattern asks for what only
the tool writes. Where prose writes the same, the row is not reported.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imagemill.scheduler_jobs.expansion.wildcards import WILDCARD
from imagemill.scheduler_jobs.manifest import RowText
from imagemill.scheduler_jobs.submit.row_counts import RowCounts

WEIGHTS = "weights"
FLAGS = "flags"
NETWORKS = "networks"
EDITS = "prompt editing"
TEMPLATES = "templates"
COMMENTS = "comments"
PLACEHOLDERS = "placeholders"

WAYS_OUT = {
    WEIGHTS: "--prompt-weighting true reads (word:1.3), (word) and [word]; else words alone",
    FLAGS: "a column of its own for each option, such as width; else words alone",
    NETWORKS: "a column adapters for LoRA (x:0.8); else words alone",
    EDITS: "words alone; imagemill does not change a prompt while it renders",
    TEMPLATES: "--variants all or sample expands templates; else words alone",
    COMMENTS: "words alone; only lines of a text file are comments",
    PLACEHOLDERS: "the whole prompt of each picture; imagemill fills nothing into a style",
}
"""How to go on, by kind."""


@dataclass(frozen=True, slots=True)
class ForeignSyntax:
    """A piece of syntax in a prompt: its kind, and the piece as it stands."""

    kind: str
    piece: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignRows:
    """How many rows hold one kind of syntax; `examples` are the first."""

    kind: str
    rows: int
    examples: tuple[RowText, ...]


_CHARACTER = re.compile(r"[\[({<#$_:/+BA-]")
"""Every sign in `_ANY` has one of these. Most prompts have none, which is found out sooner."""

# Most other prompts have none of these signs, and need no further search.
_ANY = re.compile(r"[\[({<#$]|__|--|::|//|\+\+|\s-[A-Za-z]|embedding:|BREAK|AND")

# Options of Midjourney and of scripts: `--ar 16:9`, `--tile`, `--anything=1`.
_VALUE = r"-?[0-9][\w.:%-]*"
_OPTIONS_WITH_VALUE = (
    "ar|aspect|v|version|niji|s|stylize|c|chaos|q|quality|seed|iw|cw|sw|ow|weird|w|h|d|l|t|n|"
    "stop|repeat|r|p|profile|exp|width|height|steps|cfg|cfg_scale|hd|batch_size|n_iter|uplight"
)
_OPTIONS_ALONE = (
    "no|sref|cref|oref|style|prompt|negative_prompt|negative|sampler_name|sd_model|styles|test|"
    "testp|tile|raw|turbo|relax|video|draft|niji|hd|fast|public|stealth|upbeta|creative"
)
_FLAG = re.compile(
    rf"(?:^|(?<=\s))--(?:(?:{_OPTIONS_WITH_VALUE})[ =]{_VALUE}|(?:{_OPTIONS_ALONE})(?=[\s=]|$)|"
    rf"[a-z][a-z_]*[ =]{_VALUE}(?=\s|$))"
)
# Options of InvokeAI's old command line: `-s50`, `-A k_euler`.
_SWITCH = re.compile(
    r"(?<=\s)-(?:[nsCWHSf] ?[0-9]+(?:\.[0-9]+)?|[Am] ?(?:k_\w+|ddim|plms))(?=\s|$)"
)
# Weights of Midjourney's parts of a prompt: `hot dog::2`.
_PARTS = re.compile(r"(?<![0-9])(?<=[^\W\d_])::(?:-?[0-9.]+)?(?=\s|$)")
# `<lora:sketch:0.8>` of A1111 and SwarmUI, `embedding:name` of ComfyUI.
_NETWORK = re.compile(
    r"<(?:lora|lyco|lycoris|loha|locon|hypernet|ti|embedding|embed|segment|random|wildcard|object|"
    r"region|refiner|video|preset|var|setvar|alternate|fromto)(?:\[[^\[\]<>]*\])?"
    r":[^<>]{1,300}>|\bembedding:[\w./-]+",
    re.IGNORECASE,
)
# The end of `(word:1.3)`; `_weight` looks for its beginning.
_WEIGHT_END = re.compile(r":[+-]?(?:[0-9]{1,2}(?:\.[0-9]*)?|\.[0-9]+)\)")
# `((word))`, `[[word]]` and `word:2 AND` of A1111, `(word)++` and `word++` of InvokeAI.
_STRONG = re.compile(
    r"\(\([^()]{1,300}\)\)|\[\[[^\[\]]{1,300}\]\]|\)(?:\+\+|[0-9]?\.[0-9]+(?![0-9.])|--(?=[\s,]|$))"
    r"|\b(?![Nn]otepad)[^\W\d_]{2,}\+\+(?![\w+])|:[0-9]{1,3}(?:\.[0-9]{1,6})?\s{1,9}AND\b",
)
# `[word]`, which may be a weight, an edit or an editor's; not a link of Markdown, `[word](url)`.
_BRACKETED = re.compile(r"\[([^\[\]]{1,300})\](?!\()")
_WORD = re.compile(r"[a-z][a-z-]*(?:,? [a-z][a-z-]*)*")
# The inside of `[from:to:0.5]`, `[to:0.5]` and `[from::0.5]`, which A1111 changes at that step.
_EDIT = re.compile(
    r"[^:]*[^\W\d_][^:]*:[^:]*:\s*[0-9]*\.?[0-9]+|.*[^\W\d_].*:[0-9]*\.[0-9]+|:?.*::.*"
)
# A1111 begins another window at this word.
_BREAK = re.compile(r"(?:^|[,\n]\s{0,9})BREAK(?=\s{0,9}(?:[,\n]|$))")
_EDITORS_WORDS = """
sic he him his she her it its they them their we us our you your i me my who that this these those
and or of is are was were laughs laughter applause music redacted citation blank unclear inaudible
illegible emphasis edited deleted removed note
"""
_EDITORIAL = frozenset(_EDITORS_WORDS.split())
"""Words that editors put between square brackets."""

# Wildcards `__name__`, variants `{a|b}`, `{2$$a|b}`, ranges `{1..3}` and variables `${name}`.
_TEMPLATE = re.compile(
    rf"{WILDCARD.pattern}|\$\{{[^{{}}]{{0,40}}\}}?|\{{[^{{}}|]*\|[^{{}}]{{0,40}}\}}?|\{{\s{{0,9}}-?[0-9.]{{1,20}}\.\.-?[0-9.]{{1,20}}\}}?|"
    r"\{[0-9-]{0,20}\$\$|\{\s{0,9}[~@]|\{\{[^{}]{1,300}\}\}"
)
# `{prompt}`, into which a style would be filled.
_PLACEHOLDER = re.compile(r"\{(?:negative_?)?prompt\}", re.IGNORECASE)
# `## note`, `// note` and `# note`, which is a comment only at the beginning of a line.
_COMMENT = re.compile(r"^[ \t]{0,20}(?:##|//|#[ \t]+[^\W\d_])[^\n]{0,80}", re.MULTILINE)
# `#note`: within a prompt that is a tag, so it is a comment only where it is a whole line.
_BARE_COMMENT = re.compile(r"^#[^\W\d_][^\n]{0,80}")


def may_be_foreign(prompt: str) -> bool:
    """Whether a prompt has a sign that some tool uses."""
    return _CHARACTER.search(prompt) is not None and _ANY.search(prompt) is not None


def find_foreign_syntax(
    prompt: str, *, weighted: bool = False, expanded: bool = False, line: bool = False
) -> list[ForeignSyntax]:
    """The syntax of other tools in a prompt, at most one piece of each kind.

    `weighted`: brackets are read as weights. `expanded`: the prompt was a template, so what it
    still holds of one was meant. `line`: the prompt is a whole line of its file.
    """
    if not may_be_foreign(prompt):
        return []
    found: list[ForeignSyntax] = []
    for kind, search in _SEARCHES:
        if (kind == WEIGHTS and weighted) or (kind == TEMPLATES and expanded):
            continue
        piece = search(prompt)
        if kind == COMMENTS and piece is None and line:
            piece = _first(_BARE_COMMENT)(prompt)
        if piece is not None:
            found.append(ForeignSyntax(kind, piece.strip()))
    return found


def _first(*patterns: re.Pattern[str]) -> Callable[[str], str | None]:
    """A search for the first piece that one of the patterns finds."""

    def search(text: str) -> str | None:
        matches = (pattern.search(text) for pattern in patterns)
        return next((match[0] for match in matches if match), None)

    return search


def _weight(text: str) -> str | None:
    """A piece that stands for more or less attention."""
    for end in _WEIGHT_END.finditer(text):
        start = text.rfind("(", 0, end.start())
        # What a colon divides in prose are numbers: (16:9), (10:30), (John 3:16).
        word = text[max(start + 1, end.start() - 80) : end.start()].rpartition(" ")[2]
        if start >= 0 and any(c.isalpha() or c == ")" for c in word):
            return text[start : end.end()]
    strong = _STRONG.search(text)
    if strong is not None:
        return strong[0]
    return next((match[0] for match in _BRACKETED.finditer(text) if _lowers(text, match)), None)


def _lowers(text: str, match: re.Match[str]) -> bool:
    """Whether square brackets weaken a word, and are no editor's.

    A tag stands alone between commas; in running text only a single plain word is taken for one,
    since editors write their own words there.
    """
    inner = match[1].strip()
    if not _WORD.fullmatch(inner) or _EDITORIAL.intersection(inner.split()):
        return False
    before, after = text[: match.start()].rstrip(), text[match.end() :].lstrip()
    alone = before[-1:] in {"", ","} and after[:1] in {"", ","}
    return " " not in inner or alone


def _edit(text: str) -> str | None:
    """A piece that changes the prompt while it is rendered: [a:b:0.5], [a|b], BREAK."""
    for match in _BRACKETED.finditer(text):
        if "|" in match[1] or (":" in match[1] and _EDIT.fullmatch(match[1])):
            return match[0]
    found = _BREAK.search(text)
    return None if found is None else found[0]


_SEARCHES: tuple[tuple[str, Callable[[str], str | None]], ...] = (
    (FLAGS, _first(_FLAG, _SWITCH, _PARTS)),
    (NETWORKS, _first(_NETWORK)),
    (WEIGHTS, _weight),
    (EDITS, _edit),
    (TEMPLATES, _first(_TEMPLATE)),
    (COMMENTS, _first(_COMMENT)),
    (PLACEHOLDERS, _first(_PLACEHOLDER)),
)


class ForeignCounts:
    """Counts rows that hold syntax of other tools, by kind."""

    def __init__(self) -> None:
        self._counts = RowCounts()

    def add(self, found: Sequence[ForeignSyntax], excerpt: Callable[[str], RowText]) -> None:
        """Note what a row holds; each kind counts once a row. `excerpt` says where a piece is."""
        self._counts.add({each.kind: each.piece for each in reversed(found)}, excerpt)

    def found(self) -> tuple[ForeignRows, ...]:
        """What was counted, in the order of the kinds."""
        counted = self._counts.found(kind for kind, _ in _SEARCHES)
        return tuple(
            ForeignRows(kind=kind, rows=rows, examples=examples) for kind, rows, examples in counted
        )
