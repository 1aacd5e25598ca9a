"""Any diffusers pipeline: an image of the slot engine equals the pipeline called by hand.

`tools.parity.pipeline_oracle` calls the pipelines, with arguments written down family by family.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from imagemill.db.database import Database
from imagemill.db.models.facts import model_facts
from imagemill.db.models.registry import load_registry
from imagemill.db.queries.tallies import Counts
from imagemill.db.specs import ImageSpec
from imagemill.db.tables import Object
from imagemill.scheduler_jobs.manifest import Parameters
from imagemill.scheduler_jobs.submit.planning.refusals import Refused
from imagemill.scheduler_jobs.submit.planning.samplers import check_sampler
from imagemill.worker.engine import Failed
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.files.records import pixels_sha256
from imagemill.worker.models.model import Model
from imagemill.worker.shifts.agreements import Agreements
from imagemill.worker.shifts.model_shelf import ModelShelf
from tests.engine.rendering import hashes, pixels_of, render
from tests.helpers.mill import Mill
from tests.helpers.template import migrate_quickly
from tests.helpers.workshop import Workshop, quick_settings
from tests.oracle.registered import Shop, spec_of
from tools.parity.oracle import worst_difference
from tools.parity.pipeline_oracle import NO_NEGATIVES, SAMPLERS, PipelineOracle
from tools.small_models.families import FAMILIES

SLOTS = 2
PROMPTS = ("a red circle", "two green stars on a white background", "")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("families"), slots=SLOTS)


def rows_of(model: Model) -> list[ImageSpec]:
    specs = [spec_of(model, prompt=prompt, seed=seed) for seed, prompt in enumerate(PROMPTS)]
    if model.name not in NO_NEGATIVES:
        specs[1] = replace(specs[1], negative_prompt="blue")
    return specs


def oracle_of(
    spec: ImageSpec, shop: Shop, scheduler: Callable[[Any], Any] | None = None
) -> PipelineOracle:
    return PipelineOracle(spec.model, shop.pipeline(spec.model), scheduler)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_draws_what_its_own_pipeline_draws(name: str, shop: Shop) -> None:
    model = shop.model(name)
    specs = rows_of(model)
    results = render(open_engine(model, specs[0].group(), shop.settings), specs)

    for spec, result in zip(specs, results, strict=True):
        pixels = pixels_of(result)
        # Two black pictures would be equal too.
        assert pixels.std() > 1
        oracle = oracle_of(spec, shop)
        assert worst_difference(pixels, oracle.same_shape(spec, slots=SLOTS)) == 0
        assert worst_difference(pixels, oracle.alone(spec)) <= 1


@pytest.mark.parametrize("name", FAMILIES)
def test_every_part_of_a_row_is_its_own(name: str, shop: Shop) -> None:
    model = shop.model(name)
    first = spec_of(model)
    changed = [replace(first, seed=2), replace(first, prompt=PROMPTS[1])]
    if name not in NO_NEGATIVES:
        changed.append(replace(first, negative_prompt="blue"))
    engine = open_engine(model, first.group(), shop.settings)
    one, *others = hashes(render(engine, [first, *changed]))

    assert len({one, *others}) == 1 + len(changed)
    # In the other slot, and with no neighbour.
    assert hashes(render(engine, [changed[0], first])) == [others[0], one]
    assert hashes(render(engine, [first])) == [one]


@pytest.mark.parametrize("name", ["stable_diffusion_3", "flux_schnell", "pixart_sigma"])
def test_without_guidance(name: str, shop: Shop) -> None:
    spec = spec_of(shop.model(name), guidance_scale=1.0, negative_prompt="blue")
    [result] = render(open_engine(shop.model(name), spec.group(), shop.settings), [spec])
    expected = oracle_of(spec, shop).same_shape(spec, slots=SLOTS)
    assert worst_difference(pixels_of(result), expected) == 0


@pytest.mark.parametrize("case", SAMPLERS)
def test_a_sampler_that_is_not_the_models_own(case: str, shop: Shop) -> None:
    name, sampler, options, scheduler = SAMPLERS[case]
    spec = spec_of(
        shop.model(name), sampler=sampler, steps=3, sampler_options=tuple(options.items())
    )
    own = replace(spec, sampler="own", sampler_options=())
    engine = open_engine(shop.model(name), spec.group(), shop.settings)
    with_it, without = render(engine, [spec, own])

    for image, wanted, oracle in (
        (with_it, spec, oracle_of(spec, shop, scheduler)),
        (without, own, oracle_of(own, shop)),
    ):
        expected = oracle.same_shape(wanted, slots=SLOTS)
        assert worst_difference(pixels_of(image), expected) == 0
    assert worst_difference(pixels_of(with_it), pixels_of(without)) > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pipeline_takes_the_samplers_that_planning_lets_through(name: str, shop: Shop) -> None:
    model = shop.model(name)
    entry = load_registry(shop.settings).find(name)
    facts = model_facts(entry)
    for sampler in ("flow_euler", "flow_heun", "flow_dpmpp_2m", "flow_unipc", "euler", "lcm"):
        try:
            check_sampler(entry, facts, Parameters(sampler=sampler))
        except Refused:
            refused = True
        else:
            refused = False
        spec = spec_of(model, sampler=sampler, steps=2)
        engine = open_engine(model, spec.group(), shop.settings, 1)
        engine.admit([(0, spec)])
        failed = any(isinstance(result, Failed) for result in engine.step())
        assert failed == refused, sampler


@pytest.fixture
def workshop(sqlite_url: str, shop: Shop, tmp_path: Path) -> Iterator[Workshop]:
    settings = quick_settings(
        database_url=sqlite_url, **shop.settings.model_dump(exclude_unset=True)
    )
    database = Database.from_settings(settings)
    migrate_quickly(database)
    workshop = Workshop(Mill(database), tmp_path / "store")
    workshop.settings = settings
    agreements = Agreements(database, device_class="cpu", settings=settings)
    workshop.shelf = ModelShelf(settings, agreements, workshop.folder)
    yield workshop
    assert workshop.mill.audit() == []
    database.close()


def test_a_workers_shift_stores_what_the_pipeline_draws(workshop: Workshop, shop: Shop) -> None:
    specs = [
        spec
        for name in ("stable_diffusion_3", "pixart_sigma")
        for spec in rows_of(shop.model(name))
    ]
    job = workshop.mill.load("families", specs)
    workshop.shift()

    assert workshop.counts(job) == Counts(done=len(specs))
    with workshop.mill.database.reading() as session:
        found = dict(session.execute(select(Object.request_key, Object.pixels_sha256)).all())
    assert found == {
        spec.request_key(): pixels_sha256(oracle_of(spec, shop).same_shape(spec, slots=SLOTS))
        for spec in specs
    }
