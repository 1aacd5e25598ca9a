"""ControlNets and IP-Adapters: what they leave behind, what is recorded of them, and certified."""

from dataclasses import replace
from typing import Any

import pytest

from imagemill.db.errors import ModelError
from imagemill.db.models.registry import load_registry
from imagemill.db.specs import AddedModel, ImageSpec
from imagemill.worker.engine import Failed, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.files.records import pixels_sha256
from imagemill.worker.models.loader import load_model
from imagemill.worker.reproducibility.certificate import certify, certify_model
from imagemill.worker.reproducibility.reproduce import Sample, reproduce
from tests.engine.rendering import hashes, render
from tests.oracle.ways import FILES, SCENE, SCENES, WayShop
from tools.parity.ways_of_working import CONTROL, CONTROL_FROM_PICTURE, REFERENCE, fields

NAME = "stable_diffusion"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> WayShop:
    return WayShop(tmp_path_factory.mktemp("added"))


@pytest.mark.parametrize("name", [NAME, "chroma", "flux_schnell", "stable_diffusion_3"])
def test_an_ip_adapter_leaves_nothing_behind(name: str, shop: WayShop) -> None:
    plain, referred = shop.spec(name), shop.spec(name, REFERENCE)
    model = shop.model(name)
    engine = open_engine(model, plain.group(), shop.settings, inputs=FILES)
    expected = hashes(render(engine, [plain]))
    other = open_engine(model, referred.group(), shop.settings, inputs=FILES)
    assert hashes(render(other, [referred])) != expected
    assert hashes(render(engine, [plain])) == expected


def test_an_ip_adapter_that_does_not_fit_leaves_nothing_behind(shop: WayShop) -> None:
    plain, model = shop.spec(NAME), shop.model(NAME)
    engine = open_engine(model, plain.group(), shop.settings, inputs=FILES)
    expected = hashes(render(engine, [plain]))
    bad = AddedModel(name="bad", digest=shop.spoil(NAME))
    misfit = replace(plain, reference_image=SCENE, ip_adapter=bad)
    with pytest.raises(ModelError, match="IP-Adapter bad"):
        open_engine(model, misfit.group(), shop.settings, inputs=FILES)
    assert hashes(render(engine, [plain])) == expected


def test_an_ip_adapter_is_refused_beside_fused_projections(shop: WayShop) -> None:
    shop.model(NAME)
    settings = shop.settings.model_copy(update={"fuse_projections": True})
    model = load_model(load_registry(settings).find(NAME), settings=settings)
    spec = shop.spec(NAME, REFERENCE)
    with pytest.raises(ModelError, match="unset IMAGEMILL_FUSE_PROJECTIONS"):
        open_engine(model, spec.group(), settings, inputs=FILES)


def test_an_ip_adapter_keeps_the_attention_backend_of_the_settings(shop: WayShop) -> None:
    shop.model("flux_schnell")
    settings = shop.settings.model_copy(update={"attention": "diffusers:_native_math"})
    model = load_model(load_registry(settings).find("flux_schnell"), settings=settings)
    for way in ("", REFERENCE, ""):
        spec = shop.spec("flux_schnell", way)
        open_engine(model, spec.group(), settings, inputs=FILES)
        processors = model.pipeline.transformer.attn_processors.values()
        assert {each._attention_backend.value for each in processors} == {"_native_math"}


def test_pictures_whose_pipeline_reads_no_reference_fail_by_themselves(shop: WayShop) -> None:
    spec = shop.spec("flux_schnell", REFERENCE)
    control = ways_fields(shop, "flux_schnell", CONTROL_FROM_PICTURE)
    both = replace(spec, **control)
    engine = open_engine(shop.model("flux_schnell"), both.group(), shop.settings, inputs=FILES)
    [failed] = render(engine, [both])
    assert isinstance(failed, Failed)
    assert "FluxControlNetImg2ImgPipeline" in failed.error.message
    assert "takes no reference_image" in failed.error.message


def ways_fields(shop: WayShop, name: str, way: str) -> dict[str, Any]:
    return fields(way, name, SCENES, load_registry(shop.settings))


@pytest.mark.parametrize("way", [CONTROL, REFERENCE])
def test_the_environment_names_what_is_added(way: str, shop: WayShop) -> None:
    def document(spec: ImageSpec) -> dict[str, Any]:
        engine = open_engine(shop.model(NAME), spec.group(), shop.settings, inputs=FILES)
        return engine.environment.document()

    plain, spec = shop.spec(NAME), shop.spec(NAME, way)
    before = document(plain)
    found = {field: value for field, value in document(spec).items() if field not in before}
    expected: dict[str, Any] = {}
    if spec.controlnet is not None:
        expected["controlnet"] = {"digest": spec.controlnet.digest}
    if spec.ip_adapter is not None:
        expected["ip_adapter"] = {"digest": spec.ip_adapter.digest, "scale": spec.reference_scale}
    assert found == expected
    assert found


@pytest.mark.parametrize("way", [CONTROL, REFERENCE])
def test_such_an_image_is_reproduced(way: str, shop: WayShop) -> None:
    spec = shop.spec(NAME, way)
    engine = open_engine(shop.model(NAME), spec.group(), shop.settings, inputs=FILES)
    [result] = render(engine, [spec])
    assert isinstance(result, Rendered)

    def sample(document: dict[str, Any], wanted: ImageSpec) -> Sample:
        return Sample(
            name="1",
            spec=wanted,
            environment=document,
            pixels_sha256=pixels_sha256(result.pixels),
            read=lambda: result.pixels,
        )

    document = engine.environment.document()
    [same] = reproduce([sample(document, spec)], shop.settings, inputs=FILES)
    assert same.identical
    assert same.same_environment

    # What was added then has another digest now: that is said, not passed over.
    field = "controlnet" if way == CONTROL else "ip_adapter"
    other = {**document, field: {**document[field], "digest": "0" * 64}}
    [changed] = reproduce([sample(other, spec)], shop.settings, inputs=FILES)
    assert list(changed.changed) == [field]
    lost = replace(spec, **{field: AddedModel(name="lost", digest="0" * 64)})
    [failed] = reproduce([sample(other, lost)], shop.settings, inputs=FILES)
    assert failed.broken
    assert "nothing here has the digest" in str(failed.error)


@pytest.mark.parametrize("way", [CONTROL, REFERENCE])
def test_the_certificate_tries_what_is_added(
    way: str, shop: WayShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = shop.spec(NAME, way).group()
    engine = open_engine(shop.model(NAME), group, shop.settings)
    used = []
    module = engine_module(shop, way)
    forward = type(module).forward
    monkeypatch.setattr(
        type(module),
        "forward",
        lambda self, *args, **kwargs: used.append(1) or forward(self, *args, **kwargs),
    )
    verdict = certify(engine, group, model_name=NAME)
    assert verdict.holds
    assert used


def engine_module(shop: WayShop, way: str) -> Any:
    model = shop.model(NAME)
    if way == REFERENCE:
        return model.pipeline.image_encoder
    assert model.controlnet is not None
    return model.controlnet[1]


def test_a_model_is_certified_with_all_that_is_asked_for(shop: WayShop) -> None:
    shop.model(NAME)
    verdicts = certify_model(
        shop.settings, NAME, size=(64, 64), slots=2, rows=1, rounds=1, controlnet=NAME
    )
    assert [title for title, _ in verdicts] == [
        f"{NAME}, 64x64, {guidance} guidance{added}"
        for guidance in ("with", "without")
        for added in ("", f", ControlNet {NAME}", f", IP-Adapter {NAME}")
    ]
    assert all(verdict.holds for _, verdict in verdicts)
    assert len({verdict.environment for _, verdict in verdicts}) == len(verdicts)
