"""Prompt variants, wildcards, ranges and grids."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagemill.db.errors import ManifestError
from imagemill.scheduler_jobs.expansion import (
    Expansion,
    Templates,
    expand,
    parse_grid,
    seed_base,
)
from imagemill.scheduler_jobs.manifest import ManifestRow, Parameters, Problem
from tests.unit.manifests import DATA, LIMITS


def row(prompt: str, **parameters: Any) -> ManifestRow:
    key = parameters.pop("key", None)
    return ManifestRow(
        number=3,
        line=4,
        verbatim=prompt,
        key=key,
        prompt=prompt,
        parameters=Parameters(**parameters),
        extras={"note": "x"},
    )


def cells(given_row: ManifestRow, occurrence: int = 0, **options: Any) -> list[ManifestRow]:
    found = list(
        expand(given_row, Expansion(**options), file="f", limits=LIMITS, occurrence=occurrence)
    )
    assert all(isinstance(item, ManifestRow) for item in found), str(found)
    return [item for item in found if isinstance(item, ManifestRow)]


def prompts(template: str, folder: Path | None = None) -> list[str]:
    found = cells(row(template), variants="all", templates=Templates(folder))
    return [cell.prompt for cell in found]


def problem(template: str, folder: Path | None = None, **options: Any) -> str:
    expansion = Expansion(**{"variants": "all", "templates": Templates(folder), **options})
    (found,) = expand(row(template), expansion, file="f", limits=LIMITS)
    assert isinstance(found, Problem)
    return str(found)


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("a cat", ["a cat"]),
        ("a {red|blue} cat", ["a red cat", "a blue cat"]),
        ("{a|b} {1|2}", ["a 1", "a 2", "b 1", "b 2"]),
        ("{a {x|y}|b}", ["a x", "a y", "b"]),
        ("{2::a|0.5::b|c}", ["a", "b", "c"]),
        ("a{ very|} big cat", ["a very big cat", "a big cat"]),
        ("{1..3} cats", ["1 cats", "2 cats", "3 cats"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0.1..0.3..0.1|many}", ["0.1", "0.2", "0.3", "many"]),
        ("{a|a|b}", ["a", "b"]),
        (r"\{a\|b\} | c", ["{a|b} | c"]),
        (r"(a:1.2) \(b\)", [r"(a:1.2) \(b\)"]),
        ("{ratio 16::9|x}", ["ratio 16::9", "x"]),
    ],
)
def test_all_variants(template: str, made: list[str]) -> None:
    assert prompts(template) == made


def test_without_variants_a_brace_is_a_brace() -> None:
    (cell,) = cells(row("a {red|blue} __cat__"))
    assert cell == row("a {red|blue} __cat__")
    assert cell.template is None


def test_template_and_resolved_prompt_are_both_kept() -> None:
    found = cells(row("a {red|blue} cat", steps=5, key="k"), variants="all")
    assert [(cell.template, cell.prompt) for cell in found] == [
        ("a {red|blue} cat", "a red cat"),
        ("a {red|blue} cat", "a blue cat"),
    ]
    for cell in found:
        assert cell.verbatim == "a {red|blue} cat"
        assert (cell.number, cell.line, cell.key) == (3, 4, "k")
        assert cell.extras == {"note": "x"}
        assert cell.parameters == Parameters(steps=5)


def test_wildcards(tmp_path: Path) -> None:
    (tmp_path / "art").mkdir()
    (tmp_path / "art" / "mood.txt").write_text("# moods\ncalm\n\n2::{very |}wild\n")
    (tmp_path / "thing_one.txt").write_text("\ufeffa __art/mood__ cat\r\na {dog}\r\n")
    assert prompts("__art/mood__ sea", tmp_path) == ["calm sea", "very wild sea", "wild sea"]
    assert prompts("__thing_one__", tmp_path) == [
        "a calm cat",
        "a very wild cat",
        "a wild cat",
        "a dog",
    ]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{a|b", "a { without its }"),
        ("a}", "a } without its {"),
        ("{a|}", "a template that can be empty"),
        ("{2$$a|b}", 'several options at once, "2$$a|b}"'),
        ("{0::a|0::b}", "a choice whose weights are all 0"),
        ("{-1::a|b}", 'a weight of "-1"; a number such as 2 or 0.5'),
        ("{a|1e3::b}", 'a weight of "1e3"'),
        ("{1234567::a|0,5::b}", 'a weight of "1234567"'),
        ("{1..9..-1}", 'range "1..9..-1"'),
        ("{1..9..0}", 'range "1..9..0"'),
        ("{1..99999}", 'range "1..99999" of 99,999 numbers'),
        ("{1..100}{1..100}{1..2}", "a template of 20,000 prompts; at most 10,000"),
        ("{1..9999}" * 100, "a template of a great many prompts"),
        ("{" * 30 + "a" + "}" * 30, "variants nested too deeply"),
        ("__none__", "wildcard __none__"),
        ("__loop__", "wildcard __loop__ inside itself"),
        ("__empty__", "empty.txt is empty"),
        ("__binary__", "binary.txt: byte 0xff at offset 1 (line 1) is not UTF-8; UTF-8 text; save"),
        ("__link__", "wildcard __link__"),
    ],
)
def test_a_wrong_template_is_one_clear_line(template: str, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "wildcards"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "loop.txt").write_text("a {b|__loop__}")
    (folder / "empty.txt").write_text("\n# nothing\n")
    (folder / "binary.txt").write_bytes(b"a\xff")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    line = problem(template, folder)
    assert line.startswith("f:3: prompt: " + said)


def test_a_path_out_of_the_folder_is_no_wildcard(tmp_path: Path) -> None:
    folder = tmp_path / "wildcards"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    assert prompts("__../secret__", folder) == ["__../secret__"]
    assert problem("__a/../../secret__", folder).startswith("f:3: prompt: wildcard __a/../../sec")


def test_wildcards_need_a_folder() -> None:
    assert problem("__mood__").startswith("f:3: prompt: wildcard __mood__; a folder")


def test_a_billion_laughs_are_refused_at_once(tmp_path: Path) -> None:
    for n in range(15):
        (tmp_path / f"w{n}.txt").write_text(f"__w{n + 1}__ __w{n + 1}__\n" * 20)
    (tmp_path / "w15.txt").write_text("ha")
    for variants in ("all", "sample"):
        line = problem("__w0__", tmp_path, variants=variants)
        assert "a template of prompts of up to 98,303 bytes" in line


def test_draws_depend_on_the_jobs_seed_and_the_row_alone() -> None:
    def draw(seed: int, text: str = "{1..1000}", **more: Any) -> list[str]:
        found = cells(row(text, **more), variants="sample", draws=4, job_seed=seed)
        return [cell.prompt for cell in found]

    assert draw(1) == draw(1)
    assert len(draw(1)) == 4
    assert draw(1) != draw(2)
    assert draw(1, key="a") != draw(1, key="b")
    again = cells(row("{1..1000}"), 1, variants="sample", draws=4, job_seed=1)
    assert [cell.prompt for cell in again] != draw(1)
    assert draw(0, "{1..1000} {a|b}")[0] == "735 b", "pinned: a draw is the same in every version"


def test_weights_are_shares_of_what_is_drawn() -> None:
    found: Counter[str] = Counter()
    for seed in range(2000):
        (cell,) = cells(row("{3::a|b|0::c}"), variants="sample", job_seed=seed)
        found[cell.prompt] += 1
    assert set(found) == {"a", "b"}
    assert 1400 < found["a"] < 1600


def test_a_range_weighs_as_much_as_any_other_option() -> None:
    drawn = Counter(
        cells(row("{1..100|x}"), variants="sample", job_seed=seed)[0].prompt == "x"
        for seed in range(600)
    )
    assert 240 < drawn[True] < 360


def test_the_cells_of_a_grid() -> None:
    grid = parse_grid(["cfg=3,5,7.5", "steps=10..30..10", "sampler=ddim,Euler a"], limits=LIMITS)
    assert len(grid) == 18
    assert grid[0] == Parameters(guidance_scale=3, steps=10, sampler="ddim")
    assert grid[1] == Parameters(guidance_scale=3, steps=10, sampler="euler_a")
    assert grid[-1] == Parameters(guidance_scale=7.5, steps=30, sampler="euler_a")


@pytest.mark.parametrize(
    ("axis", "made"),
    [
        ("size=64x64,128x64", [Parameters(width=64, height=64), Parameters(width=128, height=64)]),
        ("guidance_scale=1..2..0.5", [Parameters(guidance_scale=x) for x in (1, 1.5, 2)]),
        ("negative_prompt=[\"a, b\", \"\"]", [Parameters(negative_prompt=x) for x in ("a, b", "")]),
        ("seed=1,2,2", [Parameters(seed=1), Parameters(seed=2)]),
    ],
)  # fmt: skip
def test_axes(axis: str, made: list[Parameters]) -> None:
    assert list(parse_grid([axis], limits=LIMITS)) == made


def test_every_wrong_axis_is_reported() -> None:
    axes = ["steps=0,x", "colour=red", "seeds=1,2", "steps", "cfg=3", "guidance=4", "eta=[1"]
    with pytest.raises(ManifestError) as caught:
        parse_grid(axes, limits=LIMITS)
    lines = str(caught.value).splitlines()
    assert lines[0] == '--grid: steps: "0"; a whole number from 1 to 1000'
    assert [line.split(": ")[1] for line in lines] == [
        "steps", "colour", "seeds", "steps", "guidance", "eta",
    ]  # fmt: skip


def test_axes_that_contradict_each_other_and_grids_too_large() -> None:
    with pytest.raises(ManifestError, match="both strength and start_step; one of them"):
        parse_grid(["strength=0.5", "start_step=3"], limits=LIMITS)
    with pytest.raises(ManifestError, match="a grid of 20,000 cells; at most 10,000"):
        parse_grid(["seed=1..1000", "steps=1..20"], limits=LIMITS)


@pytest.mark.parametrize(
    ("axes", "line"),
    [
        (["size=64x64,128x64", "width=64"], "width: axis size sets it as well; one axis for it"),
        (["height=64", "size=64x64"], "size: axis height sets it as well; one axis for it"),
        (["steps=[null,5]"], "steps: null, which sets nothing; a value"),
        (['sampler_options=[{"shift":1,"shift":2}]'], 'key "shift" twice; every key once'),
    ],
)
def test_an_axis_that_would_change_nothing_is_refused(axes: list[str], line: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_grid(axes, limits=LIMITS)
    assert str(caught.value).endswith(line)


def test_a_grid_goes_before_the_row_and_its_cells_share_the_seed() -> None:
    grid = parse_grid(["cfg=3,5"], limits=LIMITS)
    found = cells(row("a {red|blue} cat", guidance_scale=9, steps=5), variants="all", grid=grid)
    assert [cell.prompt for cell in found] == ["a red cat"] * 2 + ["a blue cat"] * 2
    assert [cell.parameters.guidance_scale for cell in found] == [3, 5, 3, 5]
    assert all(cell.parameters.steps == 5 for cell in found)
    keys = [seed_base(cell) for cell in found]
    assert keys[0] == keys[1] != keys[2] == keys[3]


def test_keys_name_the_row_and_the_prompt_and_nothing_else() -> None:
    (plain,) = cells(row("a cat", key="k"), variants="all")
    assert seed_base(plain) == "id:k"
    two = cells(row("{a|b}", key="k"), variants="all")
    three = cells(row("{c|b|a}", key="k"), variants="all")
    assert {seed_base(cell) for cell in two} < {seed_base(cell) for cell in three}
    assert all(seed_base(cell).startswith("id:k:prompt:") for cell in two)


def test_a_grid_that_contradicts_the_row_is_a_problem() -> None:
    expansion = Expansion(grid=(Parameters(width=8192),))
    (found,) = expand(row("a cat", height=8192), expansion, file="f", limits=LIMITS)
    assert "8192x8192 = 67,108,864 pixels" in str(found)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    text=st.text(alphabet=st.sampled_from("{}|_\\.:$0129a "), max_size=40),
    variants=st.sampled_from(["all", "sample"]),
)
def test_any_text_expands_or_is_one_problem(text: str, variants: str) -> None:
    expansion = Expansion(variants=variants, draws=3)  # type: ignore[arg-type]  # sampled words
    found = list(expand(row(text), expansion, file="f", limits=LIMITS))
    assert found
    if isinstance(found[0], Problem):
        assert len(found) == 1
        assert str(found[0]).isprintable()
    else:
        assert all(isinstance(cell, ManifestRow) and cell.prompt.strip() for cell in found)


def test_the_examples_of_the_documentation_are_valid(tmp_path: Path) -> None:
    page = (DATA.parents[1] / "docs" / "expansion.md").read_text(encoding="utf-8")
    axes = page.partition("```text\n")[2].partition("```")[0].splitlines()
    assert len(parse_grid(axes, limits=LIMITS)) == 3 * 3 * 2 * 2 * 2
    table = page.partition("| --- | --- |\n")[2].partition("\n\n")[0].replace("\\|", "|")
    templates = re.findall(r"`(\{[^`]+\}|__[^`]+__)`", table)
    assert len(templates) == 11
    (tmp_path / "art").mkdir()
    for name in ("mood.txt", "art/mood.txt"):
        (tmp_path / name).write_text("calm\nwild\n")
    for template in templates:
        assert len(prompts(template, tmp_path)) > 1, template
