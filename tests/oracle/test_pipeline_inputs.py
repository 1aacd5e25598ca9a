"""The table `db.models.pipeline_inputs` has what the installed diffusers has."""

import inspect
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import pytest
from diffusers.pipelines import auto_pipeline

from imagemill.db.models.call_arguments import ARGUMENTS, arguments_of
from imagemill.db.models.pipeline_inputs import PIPELINE_INPUTS, changes_the_denoiser

_NOT_TAKEN = {
    "IFPipeline",  # draws in stages of its own
    "KandinskyCombinedPipeline",  # made of two pipelines
    "KandinskyV22CombinedPipeline",
}
_BESIDE_THE_MAPPING = {"ChromaPipeline"}
_REFERENCE_IS_EDITED = {"FluxKontextPipeline"}
"""A row's only reference image is what these edit: none is left for an IP-Adapter."""


def _takes(class_name: str, parameter: str) -> bool:
    kind = getattr(diffusers, class_name)
    return parameter in inspect.signature(kind.__call__).parameters


@pytest.mark.parametrize(
    ("mapping", "field", "needs"),
    [
        (auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, "from_picture", "strength"),
        (auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING, "in_mask", "mask_image"),
    ],
)
def test_the_table_has_diffusers_own_pipelines(
    mapping: Mapping[str, Any], field: str, needs: str
) -> None:
    texts = auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING
    expected = {
        texts[key].__name__: kind.__name__
        for key, kind in mapping.items()
        if key in texts and _takes(kind.__name__, needs) and "controlnet" not in key
    }
    expected = {
        text: kind
        for text, kind in expected.items()
        if text not in _NOT_TAKEN and not changes_the_denoiser(text)
    }
    here = {kind.__name__ for kind in texts.values()} | _BESIDE_THE_MAPPING
    table = {
        text: getattr(inputs, field)
        for text, inputs in PIPELINE_INPUTS.items()
        if getattr(inputs, field) and text in here
    }
    assert {text: kind for text, kind in table.items() if text not in _BESIDE_THE_MAPPING} == (
        expected
    )


@pytest.mark.parametrize("text", PIPELINE_INPUTS)
def test_every_class_of_the_table_takes_what_it_says(text: str) -> None:
    inputs = PIPELINE_INPUTS[text]
    if hasattr(getattr(diffusers, text), "_backends"):
        pytest.skip(f"diffusers needs another package for {text}")
    for name in (inputs.from_picture, inputs.controlled_from_picture):
        assert not name or _takes(name, "strength")
    for name in (inputs.in_mask, inputs.controlled_in_mask):
        assert not name or _takes(name, "mask_image")
    for name in (inputs.controlled, inputs.controlled_from_picture, inputs.controlled_in_mask):
        assert not name or _takes(name, "controlnet_conditioning_scale")
    assert bool(inputs.controlnet) == bool(inputs.controlled)
    assert not inputs.controlnet or hasattr(diffusers, inputs.controlnet)
    assert not inputs.own_control or _takes(text, "control_image")
    assert inputs.reference == "no" or _takes(text, "image")
    started = {
        inputs.class_for(picture=picture, mask=mask, controlled=controlled)
        for picture, mask, controlled in product((False, True), repeat=3)
    }
    offered = hasattr(getattr(diffusers, text), "load_ip_adapter")
    assert inputs.ip_adapter == (offered and text not in _REFERENCE_IS_EDITED)
    if inputs.ip_adapter:
        without = {name for name in started if name and not _takes(name, "ip_adapter_image_embeds")}
        assert without == inputs.without_ip_adapter


_CALLED = sorted(
    {
        name
        for text, inputs in PIPELINE_INPUTS.items()
        for name in (
            text,
            inputs.from_picture,
            inputs.in_mask,
            inputs.controlled,
            inputs.controlled_from_picture,
            inputs.controlled_in_mask,
        )
        if name and not hasattr(getattr(diffusers, name), "_backends")
    }
)


@pytest.mark.parametrize("name", _CALLED)
def test_the_columns_that_a_call_takes_are_known(name: str) -> None:
    assert arguments_of(name) == {each for each in ARGUMENTS if _takes(name, each)}


def test_pipelines_that_change_the_denoiser_during_a_call_are_known() -> None:
    folder = Path(diffusers.__file__).parent / "pipelines"
    found = set()
    for path in folder.glob("*/**/pipeline_*.py"):
        text = path.read_text("utf-8")
        draws = "text_to_video" not in path.name and "animatediff" not in path.name
        if draws and re.search(r"(unet|transformer)\.set_attn_processor\(", text):
            found |= set(re.findall(r"^class (\w*Pipeline(?!Output)\w*)\(", text, re.MULTILINE))
    assert len(found) > 10
    assert {name for name in found if not changes_the_denoiser(name)} == set()
    assert not any(changes_the_denoiser(name) for name in PIPELINE_INPUTS)
