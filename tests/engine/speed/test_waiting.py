"""The step loop never makes the host wait for the device.

On torch's `meta` device tensors have shapes and no values: whatever looks at a value (`item`,
`cpu`, `bool`) raises there, and on a GPU it would wait until the GPU has done all its work.
"""

from dataclasses import replace

import pytest
import torch

from imagemill.db.models.registry import load_registry
from imagemill.db.samplers.names import SAMPLERS
from imagemill.db.settings import Settings
from imagemill.worker.engine import Failed
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from tests.engine.rendering import small_spec_for

LOOKS = {"dpmpp_sde", "dpmpp_sde_karras"}
"""DPM++ SDE looks at the noise's times on the device: diffusers' own code does."""

STEPS = 4


@pytest.fixture(scope="module")
def on_meta(settings: Settings) -> Model:
    """shapes64 without values, in half precision as on a GPU."""
    model = load_model(load_registry(settings).find("shapes64"), settings=settings)
    device = torch.device("meta")
    for component in model.components.values():
        if isinstance(component, torch.nn.Module):
            component.to(device, torch.float16)
    return replace(model, device=device, precision="fp16")


def test_no_step_waits_for_the_device(on_meta: Model, settings: Settings) -> None:
    """All samplers share the passes: one takes the same time there, however many rows it has."""
    specs = [
        small_spec_for(
            on_meta, sampler=sampler.name, steps=STEPS, seed=seed, guidance_scale=2.0 + seed
        )
        for sampler in SAMPLERS
        if not sampler.flow
        for seed in range(2)
    ]
    engine = open_engine(on_meta, specs[0].group(), settings, len(specs))
    engine.admit(list(enumerate(specs)))
    failed = {}
    for _ in range(STEPS - 1):
        for result in engine.step():
            assert isinstance(result, Failed)
            failed[specs[result.ticket].sampler] = result.error
    assert set(failed) == LOOKS, failed
    assert engine.steps == STEPS - 1


def test_the_finished_pictures_copy_is_what_waits(on_meta: Model, settings: Settings) -> None:
    engine = open_engine(on_meta, small_spec_for(on_meta).group(), settings, 1)
    engine.admit([(1, small_spec_for(on_meta, steps=1))])
    with pytest.raises(Exception, match="meta"):
        engine.step()
