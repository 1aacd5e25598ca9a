"""What fits, what does not, and what fp16 can't hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from imagemill.db.database import Database
from imagemill.db.errors import OutOfMemory
from imagemill.db.models.registry import load_registry
from imagemill.db.queries.tallies import Counts
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.db.states import Outcome
from imagemill.worker.engine import Engine, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.guided.denoiser import Denoiser
from imagemill.worker.engine.guided.factory import probe
from imagemill.worker.engine.shapes import find_slots
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from imagemill.worker.shifts.agreements import Agreements
from imagemill.worker.shifts.model_shelf import ModelShelf
from tests.engine.rendering import hashes, pixels_of, render, spec_for
from tests.helpers.mill import Mill
from tests.helpers.workshop import Workshop, quick_settings
from tests.oracle.registered import Shop, spec_of

LARGE = {"width": 512, "height": 512}
"""64 times the pixels that shapes64 was made for: rows that take memory."""

ROOM_MIB = 512
"""What a GPU is left with in the tests of its end, above the weights."""


@contextmanager
def _scarce(device: torch.device, slots: int) -> Iterator[None]:
    """Memory that ends: a GPU's in earnest, a CPU's at more than `slots` slots."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        used = torch.cuda.memory_reserved(device)
        torch.cuda.set_per_process_memory_fraction((used + ROOM_MIB * 2**20) / total, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    call = Denoiser.__call__

    def limited(self: Denoiser, cohorts: Any) -> Any:
        if self.slots > slots:
            raise torch.OutOfMemoryError("no room")
        return call(self, cohorts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Denoiser, "__call__", limited)
        yield


def _size(device: torch.device) -> dict[str, int]:
    return LARGE if device.type == "cuda" else {"width": 64, "height": 64}


def test_b_is_found_by_trying(shapes64: Model, settings: Settings, device: torch.device) -> None:
    group = spec_for(shapes64).group()

    def attempt(count: int) -> float:
        return probe(open_engine(shapes64, group, settings, count), group, shapes64)

    found = find_slots(attempt, largest=16)
    assert found in {1, 2, 4, 8, 16}
    if device.type == "cuda":
        opened = open_engine(shapes64, group, settings).slots
        assert opened in {1, 2, 4, 8, 16, 32, 64}


def test_b_that_does_not_fit_is_not_found(
    shapes64: Model, settings: Settings, device: torch.device
) -> None:
    group = spec_for(shapes64, **_size(device)).group()

    def attempt(count: int) -> float:
        sizes.append(count)
        # Twice as fast each time: memory alone ends it.
        probe(open_engine(shapes64, group, settings, count), group, shapes64)
        return 1.0

    sizes: list[int] = []
    with _scarce(device, slots=2):
        found = find_slots(attempt)
    assert 1 <= found < 64
    assert sizes[-1] == 2 * found


def test_a_full_device_is_told_and_half_of_it_works(
    shapes64: Model, settings: Settings, device: torch.device
) -> None:
    spec = spec_for(shapes64, steps=2, **_size(device))
    with _scarce(device, slots=2):
        engine = open_engine(shapes64, spec.group(), settings, 64)
        with pytest.raises(OutOfMemory):
            render(engine, [spec])
        assert engine.abandon() in ([0], [])
        del engine
        slots = 32
        while True:
            smaller = open_engine(shapes64, spec.group(), settings, slots)
            try:
                [result] = render(smaller, [spec])
                break
            except OutOfMemory:
                smaller.abandon()
                slots //= 2
    assert slots >= 1
    assert pixels_of(result).std() > 1


def test_a_shift_that_runs_out_of_memory_stores_every_image(
    sqlite_url: str, settings: Settings, device: torch.device, tmp_path: Path
) -> None:
    values = settings.model_dump(exclude_unset=True) | {"database_url": sqlite_url, "slots": None}
    chosen = quick_settings(**values)
    database = Database.from_settings(chosen)
    migrate(database)
    workshop = Workshop(Mill(database), tmp_path / "store")
    workshop.settings = chosen
    agreements = Agreements(database, device_class=device.type, settings=chosen)
    shelf = ModelShelf(chosen, agreements, workshop.folder)
    workshop.shelf = shelf
    model = load_model(load_registry(chosen).find("shapes64"), settings=chosen)
    specs = [spec_for(model, seed=seed, steps=2, **_size(device)) for seed in range(4)]
    job = workshop.mill.load("large", specs)
    del model
    with _scarce(device, slots=2):
        for _ in range(8):
            workshop.shift()
            if workshop.counts(job).done == len(specs):
                break

    assert workshop.counts(job) == Counts(done=len(specs))
    assert workshop.mill.audit() == []
    database.close()


def _overflow_in_fp16(vae: Any) -> None:
    """Let activations pass 65,504 behind the first convolution; the norms after it mend them."""
    weight = vae.decoder.conv_in.weight
    with torch.no_grad():
        weight.copy_(weight.float() * (2e4 / weight.float().abs().max()))


def _fp16(settings: Settings) -> Settings:
    return settings.model_copy(update={"dtype": "fp16"})


def _check_retry(engine: Engine, vae: Any, result: Any) -> None:
    assert isinstance(result, Rendered)
    assert result.outcome is Outcome.OK
    assert result.pixels.std() > 1
    assert result.environment is not None
    assert result.environment.document()["vae_dtype"] == "fp32"
    assert engine.environment.document()["vae_dtype"] == "fp16"
    assert vae.dtype == torch.float16


def test_an_fp16_decoder_that_overflows_decodes_in_fp32(settings: Settings) -> None:
    halved = _fp16(settings)
    model = load_model(load_registry(halved).find("shapes64"), settings=halved)
    vae = model.components["vae"]
    _overflow_in_fp16(vae)
    spec = spec_for(model, steps=2)
    engine = open_engine(model, spec.group(), halved, 2)
    [result] = render(engine, [spec])

    _check_retry(engine, vae, result)
    assert hashes(render(engine, [spec])) == hashes([result])


def test_another_pipelines_fp16_decoder_does_too(settings: Settings, tmp_path: Path) -> None:
    shop = Shop(tmp_path, slots=2)
    shop.settings = shop.settings.model_copy(update={"device": settings.device, "dtype": "fp16"})
    model = shop.model("stable_diffusion_3")
    vae = model.components["vae"]
    _overflow_in_fp16(vae)
    spec = spec_of(model)
    engine = open_engine(model, spec.group(), shop.settings)
    [result] = render(engine, [spec])

    _check_retry(engine, vae, result)
