"""The parity tables: written from what is compared, and a broken bound is exit code 1."""

import pytest

from imagemill.db.samplers import SAMPLERS
from tests.helpers.places import ROOT
from tools import parity
from tools.comparisons import TABLES, Difference
from tools.oracle import Pixels, UnconditionalOracle

TABLE = "Unconditional"
COMMITTED = ROOT / "docs" / "parity.md"


def test_a_table_within_its_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.main(["--only", TABLE, "--steps", "3"]) == 0
    printed = capsys.readouterr()
    assert "| `ddpm` | 0 / " in printed.out
    assert "broken" not in printed.out.split("##")[1]
    assert not printed.err


@pytest.mark.parametrize(("way", "off_by"), [("same_shape", 1), ("alone", 2)])
def test_a_broken_bound_is_told_and_is_exit_code_1(
    way: str, off_by: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = UnconditionalOracle.same_shape

    def wrong(self: UnconditionalOracle, *args: object, **options: object) -> Pixels:
        pixels = drawn(self, args[0], slots=options.get("slots", 1))
        return pixels + (pixels < 128) * off_by - (pixels >= 128) * off_by

    monkeypatch.setattr(UnconditionalOracle, way, wrong)
    assert parity.main(["--only", TABLE, "--steps", "3"]) == 1
    printed = capsys.readouterr()
    assert "**broken**" in printed.out
    assert "out of bounds: Unconditional, `ddpm`, from noise: " in printed.err


def test_no_row_hides_another() -> None:
    row = Difference(way="from noise", title="one pipeline", same_shape=0, alone=0)
    with pytest.raises(ValueError, match="two rows of one title"):
        parity.report({TABLE: [row, row]}, 4)


def test_the_committed_tables_are_whole() -> None:
    text = COMMITTED.read_text("utf-8")
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings == list(TABLES)
    assert TABLES.keys() == parity.WHAT.keys()
    assert "**broken**" not in text
    for sampler in SAMPLERS:
        assert f"| `{sampler.name}` | 0 / " in text
