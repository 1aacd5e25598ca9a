"""Prompt templates: `a {red|2::blue} {circle|{big|small} square}, __mood__, {1..5}`.

{a|b}       one of the options, which may be templates themselves, or empty
{2::a|b}    `a` twice as likely as `b`, where one is drawn; both come where all are made
{@a|~b}     as {a|b}: how to sample is the job's choice
{1..5}      1, 2, 3, 4, 5; {10..0..-5} counts in steps; {1..3|many} is one option among others
__name__    one line of the wildcard file `name.txt`
\\{ \\} \\| \\_  the character itself
"""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from imagemill.scheduler_jobs.expansion.draws import draw_index
from imagemill.scheduler_jobs.expansion.ranges import Range, read_range
from imagemill.scheduler_jobs.expansion.wildcards import WILDCARD, Wildcards
from imagemill.scheduler_jobs.manifest import BadValue
from imagemill.scheduler_jobs.manifest.problems import shown

DEEPEST = 20
"""The deepest nesting of variants and wildcards."""

_SIGN = re.compile(rf"\\[{{}}|_]|[{{}}|]|{WILDCARD.pattern}")
_WEIGHT = re.compile(r"\s*([0-9]{1,6}(?:\.[0-9]{1,6})?|\.[0-9]{1,6})::", re.ASCII)
_NO_WEIGHT = re.compile(r"\s*([-+]?[0-9.,][0-9.,eE+-]{0,40})::", re.ASCII)
_VARIABLE = re.compile(r"\$\{([^{}=]*)\}|\$\{\s*([A-Za-z_]\w*)\s*=!?([^{}]*)\}\s*")
_SEVERAL = re.compile(r"\s*[0-9-]*\$\$")


@dataclass(frozen=True)
class Choice:
    """One of several texts. The weights matter only when one of them is drawn."""

    options: tuple["Template", ...]
    weights: tuple[float, ...]

    @cached_property
    def count(self) -> int:
        """How many texts this can become."""
        return sum(option.count for option in self.options)

    @cached_property
    def longest(self) -> int:
        """The most UTF-8 bytes that this can become."""
        return max(option.longest for option in self.options)

    def draw(self, key: str) -> str:
        """One of them; see `Template.draw`."""
        return self.options[draw_index(self.weights, key)].draw(key)

    def texts(self) -> Iterator[str]:
        """All of them, in order."""
        return itertools.chain.from_iterable(option.texts() for option in self.options)


@dataclass(frozen=True)
class Template:
    """Texts, choices and ranges, one after another.

    Ask `count` before making all texts, and `longest` before making any: a short template may stand
    for very many texts, and for very long ones.
    """

    parts: tuple["Part", ...]

    @cached_property
    def count(self) -> int:
        """How many texts this can become; equal texts are counted separately."""
        return math.prod(part.count for part in self.parts if not isinstance(part, str))

    @cached_property
    def longest(self) -> int:
        """The most UTF-8 bytes that this can become."""
        return sum(
            len(part.encode()) if isinstance(part, str) else part.longest for part in self.parts
        )

    def texts(self) -> Iterator[str]:
        """All texts; the last choice changes fastest."""
        pools = [(p,) if isinstance(p, str) else tuple(p.texts()) for p in self.parts]
        for combination in itertools.product(*pools):
            yield "".join(combination)

    def draw(self, key: str) -> str:
        """One of the texts. The same key draws the same in every process and version."""
        drawn = []
        for n, part in enumerate(self.parts):
            if isinstance(part, str):
                drawn.append(part)
            else:
                place = f"{key}\0{n}"
                drawn.append(part.draw(place))
        return "".join(drawn)


Part = str | Choice | Range


class Templates:
    """Reads templates and the wildcard files that they name. Each file is read once."""

    def __init__(self, wildcards: Path | None = None) -> None:
        self._files = None if wildcards is None else Wildcards(wildcards)
        self._choices: dict[str, Choice] = {}

    def read(self, text: str, *, inside: tuple[str, ...] = ()) -> Template:
        """Parse a template. `inside` are the wildcards in whose lines it stands.

        Raises:
            BadValue: an unpaired brace, an unknown wildcard, a wildcard inside itself, …
        """
        if not inside:
            text = _without_variables(text)
        # One entry for every open brace, and one at the bottom: the parts of its option so far.
        parts: list[list[Part]] = [[]]
        choices: list[tuple[list[Template], list[float]]] = []
        at = 0
        while found := _SIGN.search(text, at):
            parts[-1].append(text[at : found.start()])
            sign, at = found[0], found.end()
            match sign[0]:
                case "{":
                    at = self._open(text, at, parts, choices, inside)
                case "|" if choices:
                    _end_option(parts, choices)
                    at = _begin_option(text, at, parts, choices)
                case "}" if choices:
                    _end_option(parts, choices)
                    parts[-1].append(_choice(*choices.pop()))
                case "}":
                    raise BadValue(
                        "a } without its {", r"a pair of braces, or \} for the sign itself"
                    )
                case "_":
                    parts[-1].append(self._wildcard(found["name"].lstrip("~@"), inside))
                case _:
                    parts[-1].append(sign[-1])
        if choices:
            raise BadValue("a { without its }", r"a pair of braces, or \{ for the sign itself")
        return _template([*parts[0], text[at:]])

    def _open(
        self,
        text: str,
        at: int,
        parts: list[list[Part]],
        choices: list[tuple[list[Template], list[float]]],
        inside: tuple[str, ...],
    ) -> int:
        if len(choices) + len(inside) >= DEEPEST:
            raise BadValue("variants nested too deeply", f"at most {DEEPEST} deep")
        if _SEVERAL.match(text, at):
            raise BadValue(f"several options at once, {shown(text[at : at + 10])}", "one of them")
        choices.append(([], []))
        return _begin_option(text, at, parts, choices)

    def _wildcard(self, name: str, inside: tuple[str, ...]) -> Choice:
        if self._files is None:
            raise BadValue(f"wildcard __{name}__", "a folder of wildcard files (--wildcards)")
        if name in inside:
            raise BadValue(f"wildcard __{name}__ inside itself", "wildcards that end")
        if len(inside) >= DEEPEST:
            raise BadValue("wildcards nested too deeply", f"at most {DEEPEST} deep")
        if name not in self._choices:
            options, weights = [], []
            for line in self._files.lines(name):
                weight, at = _weight(line, 0)
                options.append(self.read(line[at:], inside=(*inside, name)))
                weights.append(weight)
            self._choices[name] = _choice(options, weights)
        return self._choices[name]


def _without_variables(text: str) -> str:
    """The template in which every `${name}` has the value of the `${name=value}` before it."""
    known: dict[str, str] = {}

    def replaced(match: re.Match[str]) -> str:
        if match[2] is not None:
            known[match[2]] = match[3].strip()
            return ""
        name, _, default = match[1].partition(":")
        if name.strip() not in known and not default:
            raise BadValue(f"variable ${{{name}}} without a value", "${name=value} before it")
        return known.get(name.strip(), default)

    text = _VARIABLE.sub(replaced, text)
    if "${" in text:
        raise BadValue("a variable with variants in its value", "a value of plain text")
    return text.strip() if known else text


def _begin_option(
    text: str,
    at: int,
    parts: list[list[Part]],
    choices: list[tuple[list[Template], list[float]]],
) -> int:
    if text[at : at + 1] in {"~", "@"}:
        # Another tool says here how to sample. In imagemill the job says it.
        at += 1
    weight, at = _weight(text, at)
    choices[-1][1].append(weight)
    parts.append([])
    return at


def _end_option(parts: list[list[Part]], choices: list[tuple[list[Template], list[float]]]) -> None:
    option = _template(parts.pop())
    if len(option.parts) == 1 and isinstance(option.parts[0], str):
        numbers = read_range(option.parts[0].strip())
        option = option if numbers is None else Template((numbers,))
    choices[-1][0].append(option)


def _template(parts: list[Part]) -> Template:
    return Template(tuple(part for part in parts if part != ""))


def _choice(options: list[Template], weights: list[float]) -> Choice:
    if not any(weights):
        raise BadValue("a choice whose weights are all 0", "a weight above 0")
    return Choice(tuple(options), tuple(weights))


def _weight(text: str, at: int) -> tuple[float, int]:
    """The weight at a place (1 if there is none), and the place after it.

    Raises `BadValue` for a number that is no weight, and would be words of the prompt.
    """
    match = _WEIGHT.match(text, at)
    if match is None and (wrong := _NO_WEIGHT.match(text, at)):
        raise BadValue(f"a weight of {shown(wrong[1])}", "a number such as 2 or 0.5, up to 999999")
    return (float(match[1]), match.end()) if match else (1.0, at)
