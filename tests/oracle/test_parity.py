"""The parity tables: written from what is compared, and a broken bound is exit code 1."""

from pathlib import Path

import pytest

from imagemill.db.samplers.names import SAMPLERS
from tests.helpers.places import ROOT
from tools.parity import tables
from tools.parity.comparisons import TABLES, Difference
from tools.parity.oracle import Pixels, UnconditionalOracle
from tools.parity.ways_of_working import PIPELINES, save_model
from tools.small_models import families

TABLE = "Unconditional"
COMMITTED = ROOT / "docs" / "parity.md"


def test_a_table_within_its_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--only", TABLE, "--steps", "3"]) == 0
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
    assert tables.main(["--only", TABLE, "--steps", "3"]) == 1
    printed = capsys.readouterr()
    assert "**broken**" in printed.out
    assert "out of bounds: Unconditional, `ddpm`, from noise: " in printed.err


def test_a_model_saved_for_one_table_gets_what_another_table_adds(tmp_path: Path) -> None:
    families.build("flux_dev").save_pretrained(tmp_path / "flux_dev")
    save_model("flux_dev", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "flux_dev",
        "flux_dev_control",
        "flux_dev_ip",
    }


def test_no_row_hides_another() -> None:
    row = Difference(way="from noise", title="one pipeline", same_shape=0, alone=0)
    with pytest.raises(ValueError, match="two rows of one title"):
        tables.report({TABLE: [row, row]}, 4)


def test_the_committed_tables_are_whole() -> None:
    text = COMMITTED.read_text("utf-8")
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings == list(TABLES)
    assert TABLES.keys() == tables.WHAT.keys()
    assert "**broken**" not in text
    for sampler in SAMPLERS:
        assert f"| `{sampler.name}` | 0 / " in text


def test_the_committed_table_has_every_way_of_every_model() -> None:
    text = COMMITTED.read_text("utf-8").partition("## Ways of working")[2]
    heads, _, *lines = [line.strip("| ").split(" | ") for line in text.splitlines() if "|" in line]
    for name, *cells in lines:
        compared = {way for way, cell in zip(heads[1:], cells, strict=True) if cell != "-"}
        assert compared == set(PIPELINES[name.strip("`")]), name
    assert len(lines) == len(PIPELINES)
