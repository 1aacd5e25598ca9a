"""The table of families agrees with the diffusers that is installed."""

import inspect
import typing
from typing import Any

import diffusers
import pytest
from diffusers.loaders.lora_base import LoraBaseMixin

from imagemill.db.models.families import FAMILIES, find_family
from imagemill.db.models.family import NAMES, Family
from tests.helpers.places import ROOT

CASES = [(family, pipeline) for family in FAMILIES for pipeline in family.pipelines]
NEEDS_SENTENCEPIECE = {"KolorsPipeline"}
"""Pipelines that diffusers has only where that package is installed."""


def _class(name: str) -> Any:
    found = getattr(diffusers, name)
    if not issubclass(found, diffusers.DiffusionPipeline):
        assert name in NEEDS_SENTENCEPIECE
        pytest.skip(f"{name} needs a package that is not here")
    return found


def _modules(pipeline: Any, *names: str) -> list[Any]:
    hints = typing.get_type_hints(pipeline.__init__)
    found = next((hints[name] for name in names if name in hints), None)
    return [each for each in (*typing.get_args(found), found) if inspect.isclass(each)]


@pytest.mark.parametrize(("family", "name"), CASES, ids=lambda each: getattr(each, "name", each))
def test_a_row_says_what_the_pipeline_has(family: Family, name: str) -> None:
    pipeline = _class(name)
    parameters = inspect.signature(pipeline.__call__).parameters
    assert family.lora == issubclass(pipeline, LoraBaseMixin)
    if family.guidance is not None:
        assert family.guidance in parameters
    has = set()
    for denoiser in _modules(pipeline, "transformer", "unet"):
        has |= {"compile_regions"} if getattr(denoiser, "_repeated_blocks", None) else set()
        has |= {"fuse_projections"} if hasattr(denoiser, "fuse_qkv_projections") else set()
    for autoencoder in _modules(pipeline, "vae"):
        has |= {"vae_tiling"} if hasattr(autoencoder, "enable_tiling") else set()
        has |= {"vae_slicing"} if hasattr(autoencoder, "enable_slicing") else set()
    assert NAMES - family.lacks == has


def test_every_row_can_be_found() -> None:
    for family in FAMILIES:
        for pipeline in family.pipelines:
            for name in family.hub_names:
                assert find_family(pipeline, hub_name=name.upper()) is family
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_a_distilled_flux_is_told_by_its_configuration() -> None:
    dev = find_family("FluxPipeline", denoiser={"guidance_embeds": True})
    schnell = find_family("FluxPipeline", hub_name="me/mine", denoiser={"guidance_embeds": False})
    assert dev is not None
    assert schnell is not None
    assert (dev.name, schnell.name) == ("flux_dev", "flux_schnell")
    assert find_family("MyPipeline") is None


def test_the_document_has_every_row() -> None:
    text = (ROOT / "docs" / "models.md").read_text("utf-8")
    for family in FAMILIES:
        names = ", ".join(f"`{name}`" for name in family.hub_names)
        scale = "" if family.guidance is None else f"{family.guidance_scale:g}"
        if family.guidance not in {None, "guidance_scale"}:
            scale += f" (`{family.guidance}`)"
        lora = "yes" if family.lora else "no"
        size = family.size or "its own"
        row = f"| {family.title} | {names} | {size} | {family.steps} | {scale} | {lora} |"
        assert row in text
