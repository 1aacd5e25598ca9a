"""Every way of working equals diffusers' own pipeline for one image, called by hand."""

from dataclasses import replace

import diffusers
import pytest
from diffusers.pipelines.flux import pipeline_flux_kontext

from imagemill.db.errors import UsageError
from imagemill.worker.engine import Failed
from imagemill.worker.engine.factory import open_engine
from tests.engine.rendering import hashes, pixels_of, render
from tests.oracle.ways import FILES, SCENE, START, WayShop
from tools.parity.oracle import worst_difference
from tools.parity.ways_of_working import (
    CASES,
    CONTROL,
    EDIT,
    FROM_PICTURE,
    IN_MASK,
    INTERVAL,
    REFERENCE,
)

LIKE_OTHERS = {"flux_dev": "flux_schnell", "stable_diffusion_xl": "stable_diffusion"}
"""Models whose ways only `make parity` tries, because another's classes work alike."""

TRIED = [(name, way) for name, way in CASES if way != INTERVAL and name not in LIKE_OTHERS]

FLOW_CLASSES = {
    "flow_dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "flow_unipc": diffusers.UniPCMultistepScheduler,
}

FIVE_STEPS = (
    ("stable_diffusion", REFERENCE),
    ("stable_diffusion", CONTROL),
    ("stable_diffusion_3", FROM_PICTURE),
    ("stable_diffusion_3", REFERENCE),
    ("flux_schnell", REFERENCE),
    ("chroma", IN_MASK),
    ("chroma", REFERENCE),
    ("flux_schnell", CONTROL),
    ("qwen_image", IN_MASK),
    ("z_image", FROM_PICTURE),
    ("flux_kontext", EDIT),
    ("qwen_image_edit", EDIT),
    ("qwen_image_edit_plus", EDIT),
)
"""Also beside another image. `make parity` compares the rest in the engine's own shapes."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> WayShop:
    return WayShop(tmp_path_factory.mktemp("ways"))


@pytest.fixture
def small_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """FLUX.1 Kontext enlarges what it edits to a megapixel, which takes seconds: here to a 64th.

    `test_a_way_draws_what_diffusers_own_pipeline_draws` has the true sizes.
    """
    sizes = pipeline_flux_kontext.PREFERRED_KONTEXT_RESOLUTIONS
    small = [(width // 8, height // 8) for width, height in sizes]
    monkeypatch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", small)


@pytest.mark.parametrize(("name", "way"), TRIED)
def test_a_way_draws_what_diffusers_own_pipeline_draws(name: str, way: str, shop: WayShop) -> None:
    # A picture's strength leaves two or three of four; of an edit, each step draws two pictures.
    spec = shop.spec(name, way, steps=2 if way == EDIT else 4)
    engine = open_engine(shop.model(name), spec.group(), shop.settings, inputs=FILES)
    [result] = render(engine, [spec])
    pixels = pixels_of(result)
    assert pixels.std() > 1
    assert worst_difference(pixels, shop.oracle(name, way).alone(spec)) <= 1


@pytest.mark.usefixtures("small_references")
@pytest.mark.parametrize(("name", "way"), FIVE_STEPS)
def test_neither_the_neighbour_nor_the_place_in_the_pass_counts(
    name: str, way: str, shop: WayShop
) -> None:
    spec = shop.spec(name, way)
    engine = open_engine(shop.model(name), spec.group(), shop.settings, inputs=FILES)
    first, second = render(engine, [spec, replace(spec, seed=2, prompt="two green stars", steps=7)])
    assert hashes(render(engine, [spec])) == hashes([first])
    assert hashes([first]) != hashes([second])


@pytest.mark.parametrize("name", ["stable_diffusion", "flux_schnell", "stable_diffusion_3"])
def test_image_to_image_shares_passes_with_text_to_image(name: str, shop: WayShop) -> None:
    specs = [shop.spec(name), shop.spec(name, **START)]
    engine = open_engine(shop.model(name), specs[0].group(), shop.settings, inputs=FILES)
    alone = [hashes(render(engine, [spec])) for spec in specs]
    before = engine.steps
    together = render(engine, specs)
    assert engine.steps - before == 5 * (2 if name == "flux_schnell" else 1)
    assert [hashes([result]) for result in together] == alone


@pytest.mark.parametrize("way", [FROM_PICTURE, IN_MASK])
@pytest.mark.parametrize("sampler", FLOW_CLASSES)
def test_samplers_of_other_kinds_start_from_pictures_of_flow_models(
    sampler: str, way: str, shop: WayShop
) -> None:
    spec = shop.spec("stable_diffusion_3_5", way, sampler=sampler)
    engine = open_engine(
        shop.model("stable_diffusion_3_5"), spec.group(), shop.settings, inputs=FILES
    )
    [result] = render(engine, [spec])
    pixels = pixels_of(result)
    oracle = shop.oracle("stable_diffusion_3_5", way)
    oracle.take_sampler(FLOW_CLASSES[sampler])
    assert worst_difference(pixels, oracle.alone(spec)) <= 1


@pytest.mark.parametrize("way", [FROM_PICTURE, IN_MASK])
@pytest.mark.parametrize("name", ["chroma", "flux_schnell"])
def test_a_reference_image_counts_beside_an_init_image(name: str, way: str, shop: WayShop) -> None:
    plain = shop.spec(name, way, steps=4)
    referred = shop.spec(name, REFERENCE)
    spec = replace(
        plain,
        reference_image=referred.reference_image,
        reference_scale=referred.reference_scale,
        ip_adapter=referred.ip_adapter,
    )
    engine = open_engine(shop.model(name), spec.group(), shop.settings, inputs=FILES)
    pixels = pixels_of(render(engine, [spec])[0])
    oracle = shop.oracle(name, way)
    assert worst_difference(pixels, oracle.alone(plain)) > 1
    oracle.take_ip_adapter()
    assert worst_difference(pixels, oracle.alone(spec)) <= 1


@pytest.mark.usefixtures("small_references")
@pytest.mark.parametrize("name", ["flux_kontext", "qwen_image_edit", "qwen_image_edit_plus"])
def test_edits_of_prompts_of_different_lengths_share_passes(name: str, shop: WayShop) -> None:
    spec = shop.spec(name, EDIT, steps=3)
    engine = open_engine(shop.model(name), spec.group(), shop.settings, inputs=FILES)
    render(engine, [spec])
    alone = engine.steps
    render(engine, [spec, replace(spec, prompt="two green stars on a white background")])
    assert engine.steps == 2 * alone


def test_a_parameter_that_only_text_to_image_has_is_refused_for_the_other_ways(
    shop: WayShop,
) -> None:
    spec = shop.spec("stable_diffusion", **START, guidance_rescale=0.7)
    model = shop.model("stable_diffusion")
    engine = open_engine(model, spec.group(), shop.settings, inputs=FILES)
    failed, drawn = render(engine, [spec, replace(spec, init_image=None, strength=None)])
    assert isinstance(failed, Failed)
    assert "StableDiffusionImg2ImgPipeline" in failed.error.message
    assert "takes no guidance_rescale" in failed.error.message
    assert not isinstance(drawn, Failed)


def test_what_a_pipeline_lacks_fails_that_image_alone(shop: WayShop) -> None:
    spec = shop.spec("pixart_sigma", init_image=SCENE)
    engine = open_engine(shop.model("pixart_sigma"), spec.group(), shop.settings, inputs=FILES)
    [failed] = render(engine, [spec])
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, UsageError)
    assert "takes no init_image" in failed.error.message
