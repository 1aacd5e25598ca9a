"""Manifests of everything that may differ between rows, for `benchmarks.independence`."""

import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tools.small_models import families
from tools.small_models.added import save_lora

SAMPLERS = ("ddim", "pndm", "lms", "euler_a", "heun", "dpmpp_2m_karras", "dpmpp_sde", "unipc")
SIZES = ("64x64", "96x64")
STEPS = (8, 40)
GUIDANCE = (1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.5, 9.0)
"""1 is no guidance, which is a group of its own."""

FAMILIES = ("flux_dev", "stable_diffusion_3", "z_image")
"""The models of the second manifest, all transformers (DiT): a guidance-distilled one, one with
samplers of several kinds, and one whose texts differ in length.
"""

LORA = "twist"
"""A LoRA's name is this, with its family's before it."""

PICTURE = "disc.png"
STRENGTHS = (0.5, 0.8)

_FAMILY_SAMPLERS = {
    "flux_dev": ("own",),
    "stable_diffusion_3": ("own", "flow_euler", "flow_heun", "flow_dpmpp_2m", "flow_unipc"),
    "z_image": ("own",),
}
_FAMILY_STEPS = (4, 20)

_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
_SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring")


def mixed_rows(
    count: int,
    *,
    seed: int,
    steps: tuple[int, int] = STEPS,
    guidance: Sequence[float] = GUIDANCE,
) -> list[dict[str, Any]]:
    """Rows of every sampler, with many steps and scales of guidance, in two sizes.

    Each has an id: its seed comes from that, so that shuffling changes no picture.
    """
    dice = random.Random(seed)
    rows = []
    for number in range(count):
        colour, ground = dice.sample(_COLOURS, 2)
        rows.append(
            {
                "id": f"row-{number:03d}",
                "prompt": f"a {colour} {dice.choice(_SHAPES)} on a {ground} background",
                "sampler": SAMPLERS[number % len(SAMPLERS)],
                # The fewest, the most, then the lesser of two throws: few of many steps.
                "steps": min(dice.randint(*steps), dice.randint(*steps))
                if number >= len(steps)
                else steps[number],
                "guidance_scale": dice.choice(guidance),
                "size": dice.choice(SIZES),
            }
        )
    return rows


def family_rows(count: int, *, seed: int) -> list[dict[str, Any]]:
    """Rows of the other families, in turns: many steps, scales, samplers and lengths of text.

    A third of them use a LoRA, and a third start from a picture.
    """
    dice = random.Random(seed)
    rows = []
    for number in range(count):
        model = FAMILIES[number % len(FAMILIES)]
        rows.append(
            {
                "id": f"row-{number:03d}",
                "prompt": " ".join(dice.choices(_COLOURS, k=dice.randint(1, 12))),
                "model": model,
                "sampler": dice.choice(_FAMILY_SAMPLERS[model]),
                "steps": dice.randint(*_FAMILY_STEPS),
                "guidance_scale": dice.choice(GUIDANCE),
                "size": SIZES[0],
                "adapters": f"{model}_{LORA}:1" if dice.random() < 1 / 3 else "",
            }
        )
        if dice.random() < 1 / 3:
            rows[-1] |= {"init_image": PICTURE, "strength": dice.choice(STRENGTHS)}
    return rows


def save_families(home: Path, names: Collection[str]) -> None:
    """The models of these families with a LoRA each, the registry that names them, and the picture
    that rows start from, in a folder.
    """
    inputs, adapters = home / "inputs", home / "adapters"
    inputs.mkdir()
    adapters.mkdir()
    picture = Image.new("RGB", (64, 64), "navy")
    ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill="orange")
    picture.save(inputs / PICTURE)
    tables = [f'[models.{name}]\nsource = "{name}"\nkind = "generic"\n' for name in names]
    (home / "models.toml").write_text("".join(tables), encoding="utf-8")
    for name in names:
        pipeline = families.build(name)
        pipeline.save_pretrained(home / name)
        save_lora(pipeline, adapters, f"{name}_{LORA}")
