"""A few histories in every run; `python -m tests.simulation` runs thousands."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.simulation.histories import run_history
from tests.simulation.machine import Histories


def test_histories_from_a_seed_keep_every_promise() -> None:
    for number in range(12):
        _, taken, promise = run_history(f"test-{number}", 40)
        assert promise is None, "\n".join(taken)


def test_hypothesis_finds_no_history_that_breaks_a_promise() -> None:
    """New ones each time; one that does is made small and remembered."""
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=6,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
