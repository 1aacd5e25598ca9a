"""One contract for every engine: the real ones, and the fake one of the worker's tests."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from imagemill.db.errors import RenderError
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.db.states import Outcome
from imagemill.worker.engine import Engine, Failed, Rendered
from imagemill.worker.engine.factory import open_engine
from tests.helpers.fake_engine import FakeEngine
from tests.helpers.mill import spec as fake_spec

SLOTS = 4


class Case:
    """An engine of `SLOTS` slots, and specifications of its group."""

    def __init__(self, engine: Callable[[], Engine], spec: ImageSpec) -> None:
        self.engine = engine
        self._spec = spec

    def spec(self, seed: int, *, steps: int = 3) -> ImageSpec:
        return replace(self._spec, seed=seed, steps=steps)

    def other_group(self) -> ImageSpec:
        return replace(self._spec, width=self._spec.width * 2)


@pytest.fixture(scope="module")
def fake() -> Case:
    spec = fake_spec("a red circle on a blue background")
    return Case(lambda: FakeEngine(spec.group(), slots=SLOTS), spec)


@pytest.fixture(scope="module")
def shapes64() -> Case:
    from imagemill.worker.models.device import prepare_process
    from imagemill.worker.models.loader import load_model

    settings = Settings.load(device="cpu", dtype="fp32", threads=1)
    prepare_process(settings)
    model = load_model(load_registry(settings).find("shapes64"), settings=settings)
    spec = ImageSpec(
        model="shapes64",
        weights_digest=model.weights_digest,
        prompt="a red circle on a blue background",
        seed=1,
        width=64,
        height=64,
        steps=3,
        guidance_scale=5.0,
        sampler="ddim",
    )
    return Case(lambda: open_engine(model, spec.group(), settings, SLOTS), spec)


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> Case:
    from tests.oracle.registered import Shop, spec_of

    shop = Shop(tmp_path_factory.mktemp("families"), slots=SLOTS)
    model = shop.model("stable_diffusion_3")
    spec = spec_of(model, steps=3)
    return Case(lambda: open_engine(model, spec.group(), shop.settings, SLOTS), spec)


@pytest.fixture(params=["fake", "shapes64", "slots"])
def joining(request: pytest.FixtureRequest) -> Case:
    """Engines whose images share calls while their steps differ."""
    found: Case = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["fake", "shapes64", "slots"])
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


def finish(engine: Engine) -> dict[int, Rendered | Failed]:
    """Step until nothing is left; the results by ticket."""
    results: dict[int, Rendered | Failed] = {}
    while engine.busy:
        for result in engine.step():
            assert result.ticket not in results, "a ticket came back twice"
            results[result.ticket] = result
    return results


def test_starts_idle_with_every_slot_free(case: Case) -> None:
    engine = case.engine()
    assert (engine.slots, engine.room(), engine.busy, engine.steps) == (SLOTS, SLOTS, False, 0)
    assert engine.step() == []
    assert engine.steps == 0, "a call with nothing to do is no step"


def test_every_ticket_comes_back_once_with_its_picture(case: Case) -> None:
    engine = case.engine()
    engine.admit([(ticket, case.spec(ticket)) for ticket in (7, 3, 5)])
    assert engine.room() == SLOTS - 3
    results = finish(engine)
    assert set(results) == {3, 5, 7}
    assert engine.room() == SLOTS
    for result in results.values():
        assert isinstance(result, Rendered)
        assert result.pixels.shape == (64, 64, 3)
        assert result.pixels.dtype == np.uint8
        assert result.outcome == Outcome.OK
        assert result.cut is None
        assert result.seconds >= 0


def test_a_step_is_one_denoiser_call_and_an_image_ends_after_its_own(joining: Case) -> None:
    engine = joining.engine()
    engine.admit([(1, joining.spec(1, steps=2)), (2, joining.spec(2, steps=4))])
    ended = []
    for expected in (1, 2, 3, 4):
        ended.append([result.ticket for result in engine.step()])
        assert engine.steps == expected
    assert ended == [[], [1], [], [2]]


def test_a_free_slot_is_filled_while_the_others_go_on(case: Case) -> None:
    engine = case.engine()
    images = [(ticket, case.spec(ticket, steps=2 + ticket % 3)) for ticket in range(9)]
    engine.admit(images[:SLOTS])
    waiting = images[SLOTS:]
    seen: set[int] = set()
    while engine.busy:
        seen |= {result.ticket for result in engine.step()}
        fitting, waiting = waiting[: engine.room()], waiting[engine.room() :]
        engine.admit(fitting)
    assert seen == set(range(9))


def test_pixels_depend_on_the_specification_alone(case: Case) -> None:
    alone, crowd = case.engine(), case.engine()
    alone.admit([(1, case.spec(42))])
    crowd.admit([(n, case.spec(n)) for n in (8, 9)])
    crowd.step()
    crowd.admit([(1, case.spec(42))])
    one, other = finish(alone)[1], finish(crowd)[1]
    assert isinstance(one, Rendered)
    assert isinstance(other, Rendered)
    assert (one.pixels == other.pixels).all()


def test_seeds_differ(case: Case) -> None:
    engine = case.engine()
    engine.admit([(1, case.spec(1)), (2, case.spec(2))])
    one, two = finish(engine).values()
    assert isinstance(one, Rendered)
    assert isinstance(two, Rendered)
    assert (one.pixels != two.pixels).any()


def test_more_than_fits_is_refused_and_changes_nothing(case: Case) -> None:
    engine = case.engine()
    engine.admit([(n, case.spec(n)) for n in range(3)])
    with pytest.raises(ValueError, match="free slots"):
        engine.admit([(n, case.spec(n)) for n in (3, 4)])
    assert set(finish(engine)) == {0, 1, 2}


def test_nothing_to_admit_is_fine(case: Case) -> None:
    engine = case.engine()
    engine.admit([])
    assert not engine.busy


def test_an_image_of_another_group_fails_by_itself(case: Case) -> None:
    engine = case.engine()
    engine.admit([(1, case.spec(1)), (2, case.other_group())])
    assert engine.room() == SLOTS - 1
    results = finish(engine)
    assert isinstance(results[1], Rendered)
    assert isinstance(results[2], Failed)


def test_cancelled_images_are_gone_and_their_neighbours_are_not(case: Case) -> None:
    engine, undisturbed = case.engine(), case.engine()
    engine.admit([(n, case.spec(n)) for n in range(4)])
    undisturbed.admit([(0, case.spec(0))])
    engine.step()
    assert sorted(engine.cancel([1, 3, 99])) == [1, 3]
    assert engine.room() == 2
    assert engine.cancel([1]) == []
    results = finish(engine)
    assert set(results) == {0, 2}
    expected, found = finish(undisturbed)[0], results[0]
    assert isinstance(expected, Rendered)
    assert isinstance(found, Rendered)
    assert (found.pixels == expected.pixels).all()


def test_a_failure_that_waits_can_be_cancelled_too(case: Case) -> None:
    engine = case.engine()
    engine.admit([(2, case.other_group())])
    assert engine.busy
    assert engine.cancel([2]) == [2]
    assert not engine.busy


def test_abandon_drops_everything_and_the_engine_works_on(case: Case) -> None:
    engine = case.engine()
    engine.admit([(1, case.spec(1)), (2, case.spec(2)), (3, case.other_group())])
    engine.step()
    engine.admit([(4, case.other_group())])
    assert set(engine.abandon()) >= {1, 2, 4}
    assert (engine.busy, engine.room()) == (False, SLOTS)
    assert engine.abandon() == []
    engine.admit([(1, case.spec(1))])
    assert isinstance(finish(engine)[1], Rendered)


def test_the_environment_is_a_document_with_a_stable_name(case: Case) -> None:
    one, two = case.engine().environment, case.engine().environment
    assert one.document() == two.document()
    assert one.fingerprint() == two.fingerprint()
    assert len(one.fingerprint()) == 64
    assert one.changed(vae_dtype="other").fingerprint() != one.fingerprint()


def test_the_fake_breaks_where_it_is_told_to(fake: Case) -> None:
    engine = fake.engine()
    engine.admit([(1, replace(fake.spec(1), prompt="boom")), (2, fake.spec(2))])
    with pytest.raises(RuntimeError, match="boom"):
        engine.step()
    assert set(engine.abandon()) == {1, 2}
    engine.admit([(1, replace(fake.spec(1), prompt="bad")), (2, fake.spec(2))])
    results = finish(engine)
    assert isinstance(results[1], Failed)
    assert isinstance(results[1].error, RenderError)
    assert isinstance(results[2], Rendered)
