"""Any diffusers pipeline: an image of the generic engine equals the pipeline called by hand.

The pipelines are called here with arguments written down family by family, so that a wrong
guess of the engine about a signature is a difference.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import pytest
import torch
from sqlalchemy import select

from db.database import Database
from db.queries.tallies import Counts
from db.schema import migrate
from db.specs import ImageSpec
from db.tables import Object
from tests.engine.rendering import hashes, pixels_of, render
from tests.mill import Mill
from tests.oracle.families import FAMILIES
from tests.oracle.registered import Shop, spec_of
from tests.workshop import Workshop, quick_settings
from worker.agreements import Agreements
from worker.engine import open_engine
from worker.models import Model
from worker.records import pixels_sha256
from worker.shelf import ModelShelf

SLOTS = 2
PROMPTS = ("a red circle", "two green stars on a white background", "")

GUIDANCE: Mapping[str, str] = {"flux_schnell": "true_cfg_scale", "qwen_image": "true_cfg_scale"}
"""What a family calls its guidance scale, where it is not `guidance_scale`."""

NO_NEGATIVES = frozenset({"flux_dev", "latent_consistency"})
EXTRAS: Mapping[str, Mapping[str, Any]] = {
    "pixart_sigma": {"use_resolution_binning": False, "clean_caption": False},
    "sana": {"use_resolution_binning": False},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("families"), slots=SLOTS)


def rows_of(model: Model) -> list[ImageSpec]:
    specs = [spec_of(model, prompt=prompt, seed=seed) for seed, prompt in enumerate(PROMPTS)]
    if model.name not in NO_NEGATIVES:
        specs[1] = replace(specs[1], negative_prompt="blue")
    return specs


def by_hand(
    shop: Shop, spec: ImageSpec, *, rows: int, scheduler: Callable[[Any], Any] | None = None
) -> npt.NDArray[np.uint8]:
    """The picture of a row that diffusers' own pipeline draws first of `rows`.

    `scheduler` makes another sampler out of the configuration of the model's own.
    """
    pipeline = shop.pipeline(spec.model)
    arguments = {
        "prompt": [spec.prompt] + [""] * (rows - 1),
        "width": spec.width,
        "height": spec.height,
        "num_inference_steps": spec.steps,
        GUIDANCE.get(spec.model, "guidance_scale"): spec.guidance_scale,
        "generator": [torch.Generator().manual_seed(seed) for seed in [spec.seed, 0][:rows]],
        **EXTRAS.get(spec.model, {}),
    }
    if spec.model not in NO_NEGATIVES and spec.guided:
        arguments["negative_prompt"] = [spec.negative_prompt] + [""] * (rows - 1)
    own = pipeline.scheduler
    try:
        if scheduler is not None:
            pipeline.scheduler = scheduler(own.config)
        return np.asarray(pipeline(**arguments).images[0])
    finally:
        pipeline.scheduler = own


def worst(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_draws_what_its_own_pipeline_draws(name: str, shop: Shop) -> None:
    model = shop.model(name)
    specs = rows_of(model)
    results = render(open_engine(model, specs[0].group(), shop.settings), specs)

    for spec, result in zip(specs, results, strict=True):
        pixels = pixels_of(result)
        # Two black pictures would be equal too.
        assert pixels.std() > 1
        assert worst(pixels, by_hand(shop, spec, rows=SLOTS)) == 0
        assert worst(pixels, by_hand(shop, spec, rows=1)) <= 1


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
    assert worst(pixels_of(result), by_hand(shop, spec, rows=SLOTS)) == 0


SAMPLERS: Mapping[str, tuple[str, str, dict[str, Any], Callable[[Any], Any]]] = {
    "SD 3 with flow Heun": (
        "stable_diffusion_3",
        "flow_heun",
        {},
        diffusers.FlowMatchHeunDiscreteScheduler.from_config,
    ),
    "SD 3 with its own, shifted": (
        "stable_diffusion_3",
        "own",
        {"shift": 7.0},
        lambda config: diffusers.FlowMatchEulerDiscreteScheduler.from_config(config, shift=7.0),
    ),
    "SD 3 with flow DPM++ 2M": (
        "stable_diffusion_3",
        "flow_dpmpp_2m",
        {},
        lambda config: diffusers.DPMSolverMultistepScheduler.from_config(
            config, use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
    ),
    "Sana with flow Euler": (
        "sana",
        "flow_euler",
        {},
        lambda config: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ),
    "PixArt with Euler": (
        "pixart_sigma",
        "euler",
        {},
        diffusers.EulerDiscreteScheduler.from_config,
    ),
    "PixArt with ancestral noise": (
        "pixart_sigma",
        "euler_a",
        {},
        diffusers.EulerAncestralDiscreteScheduler.from_config,
    ),
    "PixArt with a Brownian tree": (
        "pixart_sigma",
        "dpmpp_sde",
        {},
        # One seed for all rows is a tree of its own kind: a list is what diffusers has for rows.
        lambda config: _seeded(diffusers.DPMSolverSDEScheduler.from_config(config), [1, 0]),
    ),
}


def _seeded(scheduler: Any, seeds: list[int]) -> Any:
    scheduler.noise_sampler_seed = seeds
    return scheduler


@pytest.mark.parametrize("case", SAMPLERS)
def test_a_sampler_that_is_not_the_models_own(case: str, shop: Shop) -> None:
    name, sampler, options, scheduler = SAMPLERS[case]
    spec = spec_of(
        shop.model(name), sampler=sampler, steps=3, sampler_options=tuple(options.items())
    )
    own = replace(spec, sampler="own", sampler_options=())
    engine = open_engine(shop.model(name), spec.group(), shop.settings)
    with_it, without = render(engine, [spec, own])

    assert worst(pixels_of(with_it), by_hand(shop, spec, rows=SLOTS, scheduler=scheduler)) == 0
    assert worst(pixels_of(without), by_hand(shop, own, rows=SLOTS)) == 0
    assert worst(pixels_of(with_it), pixels_of(without)) > 0


@pytest.fixture
def workshop(sqlite_url: str, shop: Shop, tmp_path: Path) -> Iterator[Workshop]:
    settings = quick_settings(
        database_url=sqlite_url, **shop.settings.model_dump(exclude_unset=True)
    )
    database = Database.from_settings(settings)
    migrate(database)
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
        spec.request_key(): pixels_sha256(by_hand(shop, spec, rows=SLOTS)) for spec in specs
    }
