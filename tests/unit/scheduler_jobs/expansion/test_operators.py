"""Operators that templates of other tools have: no resolved prompt holds them."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from imagemill.scheduler_jobs.cli import cli
from imagemill.scheduler_jobs.expansion import ExpandedRow, Expansion, Templates, expand
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
        assert all(isinstance(cell, ExpandedRow) for cell in cells)
        found.append([cell.row.prompt for cell in cells if isinstance(cell, ExpandedRow)])
    assert found == EXPECTED
    assert not any(re.search(r"[#$@~_{}]|::", prompt) for row in found for prompt in row)


@pytest.mark.parametrize("option", [("--draws", "3"), ("--wildcards", str(CASES / "wildcards"))])
def test_an_option_without_effect_is_refused(option: tuple[str, str], tmp_path: Path) -> None:
    arguments = ["--home", str(tmp_path), "plan", str(CASES / "template_off.csv"), *option]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert f"{option[0]} has no effect without --variants" in result.output
