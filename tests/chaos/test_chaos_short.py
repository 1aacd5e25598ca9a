"""A small campaign, so that the harness and the promises are tried with every change."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.chaos import ledger
from tests.chaos.__main__ import run
from tests.chaos.crashes import POINTS
from tests.chaos.mutants import MUTANTS, Mutant
from tests.chaos.plan import Plan
from tests.chaos.report import BASELINE, BEGIN, CAMPAIGN, END, refill
from tests.helpers.places import ROOT


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_short_campaign_breaks_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(
        kills=4,
        broker_losses=1,
        pg_restarts=1,
        store_deaths=1,
        stalls=1,
        slow_disks=1,
        clock_jumps=2,
        s3_faults=25,
        freezes=1,
        recoveries=2,
        real_engine_kills=1,
        real_engine_freezes=1,
        renderers=1,
        renderer_backlog=8,
        workers=2,
        dispatchers=2,
        minutes=1,
        backlog=16,
        poison=0.002,
        seed=3,
    )
    result = run(plan, tmp_path)
    assert result["violations"] == 0, capsys.readouterr().out
    assert result["images"] > 0
    assert result["kills"] > 0, "nothing was broken"
    assert result["real_engine_images"] > 0
    assert not result["complete"] or result["real_engine_kills"] > 0


def test_every_crash_point_is_a_place_in_the_code() -> None:
    """A renamed function would silently never crash again."""
    import importlib

    for point in POINTS:
        module, _, path = point.target.partition(":")
        found = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
        assert callable(found), point.target


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_a_mistake_in_the_code_of_today(mutant: Mutant) -> None:
    """`python -m tests.chaos.mutants` tries whether each is noticed, which takes minutes."""
    assert (ROOT / mutant.file).read_text().count(mutant.right) == 1


def test_the_page_says_how_many_mutants_there_are() -> None:
    assert f"plants {len(MUTANTS)} mistakes" in (ROOT / "docs" / "reliability.md").read_text()


def test_a_report_replaces_the_table_and_nothing_else(tmp_path: Path) -> None:
    counts = {"kills": 1000, "s3_faults": 10, "s3_requests": 20, "seconds": 90, "seed": 20261121}
    kinds = {"by_kind": {"kill worker": 900}, "s3_by_kind": {"500": 10}}
    recovery = {"an image is free again": {"count": 4, "median": 2.0, "p95": 3.0, "max": 3.5}}
    ours = {**counts, **kinds, "recovery": recovery, "images": 2000, "lost": 0, "violations": 0}
    theirs = {**counts, **kinds, "images": 600, "lost": 336, "doubled": 2}
    (tmp_path / CAMPAIGN).write_text(json.dumps(ours))
    (tmp_path / BASELINE).write_text(json.dumps(theirs))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    refill(page, tmp_path)
    before, *lines, after = page.read_text().splitlines()
    assert (before, lines[0], lines[-1], after) == ("before", BEGIN, END, "after")
    cells = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in lines[1:-1]
    }
    assert cells[""] == ["imagemill", "plain Celery"]
    assert cells["seed"] == ["20261121", "20261121"]
    assert cells["… worker"] == ["900", "900"]
    assert cells["images lost"] == ["0", "**336**"]
    assert cells["images done twice"] == ["", "**2**"]
    assert cells["seconds until an image is free again"] == ["2.0 / 3.0 / 3.5 (4)", ""]
    assert "shifts (lost)" not in cells


def test_the_page_has_a_place_for_the_table() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    assert page.index(BEGIN) < page.index(END)


def test_the_ledger_adds_campaigns_up_and_takes_each_once(tmp_path: Path) -> None:
    kinds = {"kill worker": 7, "kill worker at a crash point": 2, "kill store": 1, "stalls": 3}
    result = {"seed": 5, "kills": 10, "by_kind": kinds, "images": 30, "lost": 0, "complete": True}
    result |= {"broker_losses": 1, "s3_faults": 1500, "violations": 1, "seconds": 60}
    file = tmp_path / "campaigns.jsonl"
    older = {**result, "kills": 0, "by_kind": {}, "images": 0, "s3_faults": 0, "violations": 0}
    ledger.add(file, ledger.entry_of(older, commit="ab", at=datetime(2026, 11, 29, tzinfo=UTC)))
    result |= {"holders_killed": 4, "settle_seconds": 12.4}
    for minute in (1, 2, 2):
        at = datetime(2026, 11, 29, 12, minute, tzinfo=UTC)
        ledger.add(file, ledger.entry_of(result, commit="abc", at=at))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{ledger.BEGIN}\nold\n{ledger.END}\nafter\n")
    ledger.rewrite(page, file)
    before, *lines, after = page.read_text().splitlines()
    assert (before, after) == ("before", "after")
    cells = {key.strip(): value.strip() for _, key, value, _ in (x.split("|") for x in lines[1:-1])}
    assert (cells["campaigns"], cells["kill -9"], cells["… worker"]) == ("3", "20", "18")
    assert cells["… seen to hold images, of the last 20"] == "8"
    assert (cells["faulted S3 requests"], cells["images lost"]) == ("3,000", "0")
    assert cells["seconds from the last fault until all was over, in the last 2: median"] == "12"
    assert cells["violations"] == "2", "what was seen is shown"


def test_the_page_shows_the_sum_of_the_ledger() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    assert ledger.table(ledger.entries(ledger.LEDGER)) in page
