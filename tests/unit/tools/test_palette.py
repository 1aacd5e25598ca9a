"""The example's IP-Adapter: its captions, its training, and what the shipped one does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from imagemill.worker.scores.shapes64.drawing import Scene, draw
from imagemill.worker.scores.shapes64.sight import look
from tests.helpers.places import ROOT
from tools.shapes64 import train_palette
from tools.shapes64.palette import ENCODER, WEIGHTS, without_colours

SHIPPED = ROOT / "examples" / "palette"
REFERENCES = (("yellow", "blue", "star"), ("pink", "black", "heart"), ("green", "white", "circle"))
"""A shape's colour, its background's, and the shape that the prompt asks for instead."""


@pytest.mark.parametrize(
    ("caption", "rest"),
    [
        ("an orange star on a blue background", "a star"),
        ("two small violet hearts at the top, purple background", "two small hearts at the top"),
        ("a green background with a big ring on the left", "a big ring on the left"),
        ("a photo of a red box on a white backdrop, on the right", "a photo of a box on the right"),
        ("", ""),
    ],
)
def test_a_caption_without_colours_still_tells_the_rest(caption: str, rest: str) -> None:
    assert without_colours(caption) == rest


@pytest.mark.slow
def test_an_ip_adapter_is_trained_in_the_shipped_ones_form(tmp_path: Path) -> None:
    words = ["--steps", "1", "--sight-steps", "1", "--batch", "2", "--pictures", "64"]
    train_palette.main(["--out", str(tmp_path), *words])
    trained, shipped = load_file(tmp_path / WEIGHTS), load_file(SHIPPED / WEIGHTS)
    assert {name: each.shape for name, each in trained.items()} == {
        name: each.shape for name, each in shipped.items()
    }
    loaded = plain_pipeline()
    put(loaded, tmp_path)
    assert loaded.image_encoder.config.image_size == 64


@pytest.mark.slow
def test_the_shipped_ip_adapter_carries_colours_and_at_scale_0_changes_nothing() -> None:
    pipeline = plain_pipeline()
    alone = [drawn(pipeline, kind) for _, _, kind in REFERENCES]
    put(pipeline, SHIPPED)
    pipeline.set_ip_adapter_scale(0.0)
    without = [drawn(pipeline, *reversed(case)) for case in REFERENCES]
    pipeline.set_ip_adapter_scale(1.0)
    whole = [look(drawn(pipeline, *reversed(case))) for case in REFERENCES]
    assert np.array_equal(alone, without)
    assert [(seen.colour, seen.background, seen.kind) for seen in whole] == list(REFERENCES)


def plain_pipeline() -> Any:
    pipeline = StableDiffusionPipeline.from_pretrained(
        ROOT / "worker" / "shapes64", dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def put(pipeline: Any, folder: Path) -> None:
    pipeline.load_ip_adapter(
        str(folder), subfolder="", weight_name=WEIGHTS, image_encoder_folder=f"./{ENCODER}"
    )


def drawn(pipeline: Any, kind: str, ground: str = "", colour: str = "") -> np.ndarray:
    """What a prompt draws that names no colours, beside a square of those colours if given."""
    given = {}
    if colour:
        scene = Scene(kind="square", colour=colour, background=ground)
        given["ip_adapter_image"] = Image.fromarray(draw(scene, np.random.default_rng(0)))
    [picture] = pipeline(
        f"a {kind}",
        num_inference_steps=10,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
        **given,
    ).images
    return np.rint(picture * 255).astype(np.uint8)
