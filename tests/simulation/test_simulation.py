"""A few histories in every run, new ones each time; `python -m tests.simulation` runs thousands."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.simulation.machine import Histories


def test_no_history_breaks_a_promise() -> None:
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Histories.started >= 30
