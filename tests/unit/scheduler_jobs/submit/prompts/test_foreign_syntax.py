"""Syntax of other tools in prompts: what is told of, and what is prose."""

import csv
import json
import time

import pytest

from imagemill.scheduler_jobs.manifest import RowText
from imagemill.scheduler_jobs.submit.prompts.foreign_syntax import (
    COMMENTS,
    EDITS,
    FLAGS,
    NETWORKS,
    PLACEHOLDERS,
    TEMPLATES,
    WEIGHTS,
    ForeignCounts,
    find_foreign_syntax,
)
from tests.unit.manifests import DRAWBENCH, GENEVAL, PARTI_PROMPTS

FOREIGN = {
    FLAGS: (
        "a red circle --ar 16:9 --v 5",
        "a red circle --niji",
        "a cat --no dogs",
        "a cat --style raw",
        "a dog --steps 20",
        "a red circle -n4 -H64 -W128 -S1234",
        "a cat -A k_euler",
        "hot:: dog",
        "cat::2 dog::1",
    ),
    NETWORKS: ("<lora:x:0.8> a cat", "a cat <lyco:foo:1>", "a cat, embedding:badhands"),
    WEIGHTS: (
        "(a:1.3) cat",
        "a (red ball:1.3)",
        "a ((b:1.2), c)",
        "((red)) ball",
        "[a] ball",
        "a ball, [ugly, blurry], red",
        "[[a]]",
        "(a cat)++",
        "(a cat)1.3 in rain",
        "a cat :1.2 AND a dog :0.8",
    ),
    EDITS: ("a [cat:dog:0.5]", "a [cat|dog]", "a [cat::0.5]", "a [cat:0.5]", "a cat, BREAK, a dog"),
    TEMPLATES: (
        "a __c*__ ball",
        "a __größe__ ball",
        "a {red|blue} ball",
        "{@a|b}",
        "{.5::a|b}",
        "${c} ball",
        "${c=red} ${c}",
        "{2$$a|b}",
        "{1..5} balls",
    ),
    PLACEHOLDERS: ("cinematic {prompt}, 8k", "{Prompt}"),
    COMMENTS: ("## light", "#a comment", "# a comment", "// a comment", "a cat\n## a comment"),
}
PROSE = (
    "a clock (10:30) on a wall",
    "aspect ratio (16:9), wide",
    "a quote (John 3:16) on a wall",
    "he said [sic] it was red",
    "the man [who was tall] walked home",
    "a note [1] beside a lamp",
    "a footnote [citation needed] in a book",
    "the [REDACTED] file on a table",
    "a list [a, b, c] on paper, seen from above",
    "#1 fan",
    "a mug that says #1 dad, and a #sunset",
    "a C# book, a C++ book, and a Notepad++ window",
    'a sign that reads "BREAK GLASS"',
    "a cat AND a dog",
    "a cat -- black as night -- on a roof",
    "a cat--black as night--on a roof",
    "a cat --the black one-- on a roof",
    "a price tag of $10,000, (approx.) 100%",
    'a T-shirt with the text "I <3 you"',
    "a temperature of -5 degrees at f/2.8",
    "a page of https://example.com/a_b?c=1&d=2",
    'a form that says "Name: ____"',
    "smile :) and frown :(",
    "a well-known, state-of-the-art robot (part one: dawn)",
    "a man (age: 35) beside a Vitamin -A sign",
    "std::vector on a screen, 2::1 and fe80::1",
    'a screen with {"key": 1} and {1, 2, 3}',
    "a [link](there)",
    "a {prompt at hand} and a prompt",
    "a sign with the words Steps: 20, no more",
)


@pytest.mark.parametrize(
    ("kind", "prompt"), [(kind, prompt) for kind, each in FOREIGN.items() for prompt in each]
)
def test_syntax_of_another_tool_is_found(kind: str, prompt: str) -> None:
    assert [each.kind for each in find_foreign_syntax(prompt, line=True)] == [kind]


@pytest.mark.parametrize("prompt", PROSE)
def test_prose_is_not_caught(prompt: str) -> None:
    assert find_foreign_syntax(prompt, line=True) == []


def test_no_row_of_a_public_prompt_set_is_caught() -> None:
    parti = [line.partition("\t")[0] for line in PARTI_PROMPTS.read_text().splitlines()[1:]]
    geneval = [json.loads(line)["prompt"] for line in GENEVAL.read_text().splitlines()]
    with DRAWBENCH.open() as stream:
        drawbench = [row["Prompts"] for row in csv.DictReader(stream)]
    prompts = parti + geneval + drawbench
    assert len(prompts) > 2185
    assert [prompt for prompt in prompts if find_foreign_syntax(prompt, line=True)] == []


def test_what_is_read_is_not_told_of() -> None:
    assert find_foreign_syntax("(a:1.3) [b]", weighted=True) == []
    assert [each.kind for each in find_foreign_syntax("[a|b] (c:1.3)", weighted=True)] == [EDITS]
    assert find_foreign_syntax("a {red|blue} ball", expanded=True) == []
    assert find_foreign_syntax("#sunset over a lake") == [], "no comment within a table"


def test_rows_are_counted_by_kind_and_the_first_five_are_kept() -> None:
    counts = ForeignCounts()
    for row in range(1, 9):
        found = tuple(find_foreign_syntax(f"a --ar {row}:9 <lora:x:1>"))
        counts.add(found, lambda text, row=row: RowText(row=row, text=text))
    flags, networks = counts.found()
    assert (flags.kind, flags.rows, networks.kind, networks.rows) == (FLAGS, 8, NETWORKS, 8)
    assert flags.examples == tuple(RowText(row=row, text=f"--ar {row}:9") for row in range(1, 6))


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        "[",
        "{",
        "\n",
        " ",
        "#",
        "__a",
        "(a:",
        "[a:b",
        "<lora:",
        "a+",
        "${",
        " --a",
        ":1)",
        "::",
    ],
)
def test_a_long_prompt_of_signs_takes_no_time(piece: str) -> None:
    began = time.thread_time()
    find_foreign_syntax(piece * (32_000 // len(piece)) + "##:1.3)", line=True)
    assert time.thread_time() - began < 5, "quadratic"
