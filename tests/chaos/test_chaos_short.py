"""A small campaign, so that the harness and the promises are tried with every change."""

from pathlib import Path

import pytest

from tests.chaos.__main__ import run
from tests.chaos.crashes import POINTS
from tests.chaos.plan import Plan


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_short_campaign_breaks_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(
        kills=12,
        broker_losses=2,
        pg_restarts=1,
        s3_faults=40,
        freezes=1,
        real_engine_kills=2,
        real_engine_freezes=1,
        renderers=1,
        renderer_backlog=12,
        workers=3,
        dispatchers=1,
        minutes=1,
        backlog=60,
        poison=0.002,
        seed=3,
    )
    result = run(plan, tmp_path)
    assert result["violations"] == 0, capsys.readouterr().out
    assert result["images"] > 0
    assert result["kills"] > 0, "nothing was broken"
    assert result["real_engine_images"] > 0
    assert result["counted"]["done"] > 0


def test_every_crash_point_is_a_place_in_the_code() -> None:
    """A renamed function would silently never crash again."""
    import importlib

    for point in POINTS:
        module, _, path = point.target.partition(":")
        found = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
        assert callable(found), point.target
