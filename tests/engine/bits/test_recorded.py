"""Recorded batches: on a device that mixes rows, the composition is all that pixels depend on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch

from imagemill.db.compositions import Composition
from imagemill.db.queries.pictures.originals import Member
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.db.states import Outcome
from imagemill.worker.engine import Engine, Failed, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.shapes import choose_shapes
from imagemill.worker.files.records import pixels_sha256
from imagemill.worker.models.model import Model
from imagemill.worker.reproducibility.certificate import certify
from imagemill.worker.reproducibility.reproduce import Sample, reproduce
from tests.engine.bits.mixing import mix_rows
from tests.engine.rendering import CAPTIONS, hashes, pixels_of, render, small_spec_for
from tests.oracle.registered import Shop, spec_of

SLOTS = 4


@pytest.fixture(autouse=True)
def mixing(monkeypatch: pytest.MonkeyPatch) -> None:
    mix_rows(monkeypatch)


@pytest.fixture
def recorded(settings: Settings) -> Settings:
    return settings.model_copy(update={"batches": "recorded"})


@pytest.fixture
def engine(shapes64: Model, recorded: Settings) -> Engine:
    return open_engine(shapes64, small_spec_for(shapes64).group(), recorded, SLOTS)


@pytest.fixture
def four(shapes64: Model) -> list[ImageSpec]:
    """A full micro-batch of different samplers and steps."""
    samplers = ("ddim", "euler_a", "heun", "dpmpp_2m_sde")
    return [
        small_spec_for(shapes64, prompt=CAPTIONS[n], seed=n, sampler=samplers[n], steps=3 + n % 3)
        for n in range(SLOTS)
    ]


def finish(engine: Engine) -> dict[int, Rendered | Failed]:
    results: dict[int, Rendered | Failed] = {}
    while engine.busy:
        results |= {result.ticket: result for result in engine.step()}
    return results


def together(engine: Engine, specs: Sequence[ImageSpec]) -> list[Rendered | Failed]:
    engine.admit(list(enumerate(specs)))
    results = finish(engine)
    return [results[ticket] for ticket in range(len(specs))]


def changed(spec: ImageSpec, **values: Any) -> ImageSpec:
    return replace(spec, **values)


def test_the_same_composition_gives_the_same_bits_and_another_does_not(
    engine: Engine, four: list[ImageSpec]
) -> None:
    first = hashes(together(engine, four))
    other = hashes(together(engine, [four[0], changed(four[1], seed=99), *four[2:]]))
    assert hashes(together(engine, four)) == first
    # The one beside it is drawn otherwise: this device does mix, and who is there decides.
    assert other[2] != first[2]
    assert hashes(together(engine, four[::-1]))[::-1] != first


def test_continuous_batches_do_not_keep_the_bits_here(
    shapes64: Model, settings: Settings, engine: Engine, four: list[ImageSpec]
) -> None:
    six = [*four, *(changed(spec, seed=50 + n) for n, spec in enumerate(four[:2]))]
    continuous = open_engine(shapes64, four[0].group(), settings, SLOTS)
    assert continuous.environment.fingerprint() != engine.environment.fingerprint()
    assert hashes(render(continuous, six))[:4] != hashes(render(continuous, six[::-1]))[:1:-1]
    assert hashes(render(engine, six))[:4] == hashes(together(engine, four))


def test_nobody_joins_a_micro_batch_that_is_under_way(
    engine: Engine, four: list[ImageSpec]
) -> None:
    engine.admit([(7, four[0])])
    assert (engine.busy, engine.room()) == (True, 0)
    engine.admit([])
    with pytest.raises(ValueError, match="free slots"):
        engine.admit([(8, four[1])])
    engine.step()
    assert set(finish(engine)) == {7}
    assert (engine.busy, engine.room()) == (False, SLOTS)


def test_every_picture_says_who_was_with_it_by_slot(engine: Engine, four: list[ImageSpec]) -> None:
    engine.admit([(30 - n, spec) for n, spec in enumerate(four[:3])])
    results = finish(engine)
    expected = Composition(
        slots=SLOTS,
        request_keys=tuple(spec.request_key() for spec in four[:3]),
        image_ids=(30, 29, 28),
    )
    found = {r.composition for r in results.values() if isinstance(r, Rendered)}
    assert found == {expected}
    assert len(results) == 3


def test_a_tail_is_the_same_alone_or_after_other_work(
    engine: Engine, shapes64: Model, recorded: Settings, four: list[ImageSpec]
) -> None:
    fresh = open_engine(shapes64, four[0].group(), recorded, SLOTS)
    tail = hashes(together(fresh, four[:2]))
    together(engine, four)
    assert hashes(together(engine, four[:2])) == tail
    assert tail != hashes(together(engine, four))[:2]


def test_a_cancelled_image_is_drawn_to_the_end_and_dropped(
    engine: Engine, four: list[ImageSpec]
) -> None:
    undisturbed = hashes(together(engine, four))
    for step in range(3):
        engine.admit(list(enumerate(four)))
        for _ in range(step):
            assert engine.step() == []
        assert engine.cancel([1, 99]) == [1]
        assert engine.cancel([1]) == []
        assert engine.room() == 0
        results = finish(engine)
        assert set(results) == {0, 2, 3}
        for ticket, result in results.items():
            assert pixels_of(result).tobytes() == undisturbed[ticket]
            assert isinstance(result, Rendered)
            assert result.composition == Composition.of(list(enumerate(four)), slots=SLOTS)


def test_a_micro_batch_that_nobody_wants_any_more_ends(
    engine: Engine, four: list[ImageSpec]
) -> None:
    engine.admit(list(enumerate(four)))
    engine.step()
    steps = engine.steps
    assert engine.cancel(range(SLOTS)) == [0, 1, 2, 3]
    assert (engine.busy, engine.room()) == (False, SLOTS)
    assert engine.step() == []
    assert engine.steps == steps
    assert len(together(engine, four)) == SLOTS


def test_nobody_waits_for_a_cancelled_image_that_takes_longer(
    engine: Engine, four: list[ImageSpec]
) -> None:
    engine.admit([(0, four[0]), (1, changed(four[1], steps=20))])
    engine.cancel([1])
    assert set(finish(engine)) == {0}
    assert engine.steps == four[0].steps


def test_a_nan_neighbour_is_part_of_the_composition(engine: Engine, four: list[ImageSpec]) -> None:
    poison = changed(four[1], sampler="ddim", sampler_options=(("eta", 1e30),), steps=3)
    batch = [four[0], poison, *four[2:]]
    results = together(engine, batch)
    first = hashes(results)
    assert [r.outcome for r in results if isinstance(r, Rendered)] == [
        *(Outcome.OK, Outcome.NAN, Outcome.OK, Outcome.OK)
    ]
    together(engine, four)
    assert hashes(together(engine, batch)) == first


def test_an_image_that_can_not_start_is_no_part_of_it(
    engine: Engine, four: list[ImageSpec]
) -> None:
    refused = changed(four[1], init_image="a" * 64)
    results = together(engine, [four[0], refused, *four[2:]])
    assert isinstance(results[1], Failed)
    without = [four[0], *four[2:]]
    assert hashes([r for r in results if isinstance(r, Rendered)]) == hashes(
        together(engine, without)
    )
    assert isinstance(results[0], Rendered)
    assert results[0].composition == Composition.of(
        [(0, four[0]), (2, four[2]), (3, four[3])], slots=SLOTS
    )


@pytest.mark.parametrize(("device", "together"), [("cuda", 4), ("cpu", 1)])
def test_only_the_denoiser_is_shared(
    settings: Settings, recorded: Settings, four: list[ImageSpec], device: str, together: int
) -> None:
    """Or a prompt's encoding would depend on who was cached, and who came with it."""
    prompts = [
        choose_shapes(
            device=torch.device(device), group=four[0].group(), settings=each, slots=SLOTS
        ).prompts
        for each in (settings, recorded)
    ]
    assert prompts == [together, 1]


def test_each_kind_of_batches_is_certified_for_what_it_promises(
    shapes64: Model, settings: Settings, engine: Engine
) -> None:
    group = small_spec_for(shapes64).group()
    continuous = certify(
        open_engine(shapes64, group, settings, SLOTS), group, model_name="shapes64"
    )
    recorded = certify(engine, group, model_name="shapes64")
    assert (continuous.promise, continuous.holds) == ("independence", False)
    assert (recorded.promise, recorded.holds) == ("composition", True)
    assert not engine.busy


# Generic pipelines --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("families"), slots=SLOTS)


def test_a_generic_pipeline_keeps_its_composition(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix_rows(monkeypatch, diffusers.SD3Transformer2DModel)
    model = shop.model("stable_diffusion_3")
    specs = [spec_of(model, seed=n, steps=2 + n % 2) for n in range(4)]
    settings = shop.settings.model_copy(update={"batches": "recorded"})
    engine = open_engine(model, specs[0].group(), settings, SLOTS)
    results = together(engine, specs)
    for result in results:
        assert isinstance(result, Rendered)
        assert result.composition is not None
        assert result.composition.image_ids == (0, 1, 2, 3)
    assert hashes(together(engine, specs)) == hashes(results)
    assert hashes(together(engine, specs[::2])) != hashes(results)[::2]
    # A cancelled image is drawn to the end, for its neighbours' sake.
    engine.admit(list(enumerate(specs)))
    engine.step()
    engine.cancel([1])
    kept = finish(engine)
    assert hashes([kept[n] for n in (0, 2, 3)]) == [hashes(results)[n] for n in (0, 2, 3)]


def test_a_generic_picture_is_reproduced_with_its_neighbours(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix_rows(monkeypatch, diffusers.SD3Transformer2DModel)
    model = shop.model("stable_diffusion_3")
    specs = [spec_of(model, seed=n) for n in range(SLOTS)]
    settings = shop.settings.model_copy(update={"batches": "recorded"})
    engine = open_engine(model, specs[0].group(), settings, SLOTS)
    members = tuple(Member(image_id=n, spec=spec) for n, spec in enumerate(specs))
    results = together(engine, specs)
    samples = [
        Sample(
            name=str(n),
            spec=spec,
            environment=engine.environment.document(),
            pixels_sha256=pixels_sha256(pixels_of(result)),
            read=lambda result=result: pixels_of(result),
            together=neighbours,
        )
        for n, (spec, result) in enumerate(zip(specs, results, strict=True))
        for neighbours in (members, ())
    ]
    # Whatever the setting is now, the environment of then is what counts.
    verdicts = list(reproduce(samples, shop.settings))
    assert [verdict.identical for verdict in verdicts if not verdict.alone] == [True] * SLOTS
    assert [verdict.identical for verdict in verdicts if verdict.alone] == [False] * SLOTS
    assert all(verdict.same_environment for verdict in verdicts)
