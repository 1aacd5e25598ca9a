"""Operators that templates of other tools have: no resolved prompt holds them."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from imagemill.scheduler_jobs.cli import cli
from imagemill.scheduler_jobs.expansion import Expansion, Templates, expand
from imagemill.scheduler_jobs.expansion.wildcards import fingerprints
from imagemill.scheduler_jobs.manifest import BadValue, ManifestRow
from tests.unit.manifests import DATA, LIMITS, good_rows

CASES = DATA / "cases"
EXPECTED = [
    ["a red ball", "a yellow ball", "a orange ball"],
    ["a red ball", "a blue ball"],
    ["a red ball", "a blue ball"],
    ["a red ball"],
    ["a one ball"],
    ["a red ball", "a yellow ball"],
    ["a red ball", "a yellow ball"],
]


def test_no_resolved_prompt_holds_an_operator() -> None:
    expansion = Expansion(variants="all", templates=Templates(CASES / "wildcards"))
    found = []
    for row in good_rows(CASES / "templates.csv"):
        cells = list(expand(row, expansion, file="f", limits=LIMITS))
        assert all(isinstance(cell, ManifestRow) for cell in cells)
        found.append([cell.prompt for cell in cells if isinstance(cell, ManifestRow)])
    assert found == EXPECTED
    assert not any(re.search(r"[#$@~_{}]|::", prompt) for row in found for prompt in row)


@pytest.mark.parametrize(
    "option",
    [
        ("--draws", "3"),
        ("--draws", "3", "--variants", "all"),
        ("--wildcards", str(CASES / "wildcards")),
    ],
)
def test_an_option_without_effect_is_refused(option: tuple[str, ...], tmp_path: Path) -> None:
    arguments = ["--home", str(tmp_path), "plan", str(CASES / "template_off.csv"), *option]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert f"{option[0]} has no effect without --variants" in result.output


def resolved(folder: Path, template: str) -> list[str]:
    return list(Templates(folder).read(template).texts())


def test_lists_in_a_yaml_file_are_wildcards(tmp_path: Path) -> None:
    (tmp_path / "mood.yaml").write_text("[calm, yes, 1.0]\n")
    (tmp_path / "pantry.yml").write_text(
        "art:\n  # by country\n  finnish:\n    - Akseli\n    - 2::{Helene|Ellen}\n"
        "  dutch: [Rembrandt]\nplain: one\n"
    )
    (tmp_path / "art.txt").write_text("ink\n")
    assert resolved(tmp_path, "__mood__") == ["calm", "yes", "1.0"]
    assert resolved(tmp_path, "__art/finnish__") == ["Akseli", "Helene", "Ellen"]
    assert resolved(tmp_path, "__art*__") == ["ink", "Rembrandt", "Akseli", "Helene", "Ellen"]
    assert resolved(tmp_path, "__plain__") == ["one"]
    assert set(fingerprints(tmp_path)) == {"mood.yaml", "pantry.yml", "art.txt"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("mood: {a: [[b]]}\n", 'w.yaml: "mood/a" is no list of texts; lists of texts under names'),
        ("mood: [\n", "w.yaml is no YAML (line 2); lists of texts under names"),
        ("mood: [calm]\n", "wildcard __mood__ in mood.txt and in YAML; one of them"),
        ("a: &a [x, *a]\nmood: [y]\n", "w.yaml: an alias, *a; lists without aliases"),
        ("{a: " * 30, "w.yaml nested more than 20 deep; a flatter file"),
        ("[" * 100_000, 'w.yaml: "w" is no list of texts'),
        ("- " * 100_000, 'w.yaml: "w" is no list of texts'),
        ("mood: !!python/object/apply:os.system [ls]\n", "in mood.txt and in YAML"),
    ],
)
def test_a_yaml_file_that_can_t_be_read_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "w.yaml").write_text(text)
    (tmp_path / "mood.txt").write_text("wild\n")
    with pytest.raises(BadValue) as caught:
        resolved(tmp_path, "__mood__")
    assert line in str(caught.value)


def test_a_yaml_bomb_takes_no_memory(tmp_path: Path) -> None:
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 9) + "]" for n in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(BadValue, match="an alias"):
        resolved(tmp_path, "__a1__")
