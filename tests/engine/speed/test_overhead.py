"""`benchmarks/overhead.py` and `intervals.py`: what they measure is the engine's own work."""

from dataclasses import replace

from benchmarks.intervals import manifests, passes
from benchmarks.overhead import measure
from imagemill.db.settings import Settings
from imagemill.worker.models.model import Model


def test_it_measures_every_way_by_part(shapes64: Model, settings: Settings) -> None:
    unet = shapes64.components["unet"]
    found = measure(shapes64, settings, [2], rounds=1)
    assert [(each.way, each.slots) for each in found] == [
        ("engine, one sampler", 2),
        ("engine, five samplers", 2),
        ("slots, one sampler", 2),
        ("slots, five samplers", 2),
        ("diffusers, list of B", 2),
    ]
    for each in found[:4]:
        assert set(each.parts) == {"inputs", "sampler", "rest"}
        assert all(each.parts[part] > 0 for part in ("inputs", "sampler"))
    assert all(each.microseconds > 0 for each in found)
    assert shapes64.components["unet"] is unet, "the model keeps its denoiser"


def test_passes_are_counted_with_and_without_an_interval(
    shapes64: Model, settings: Settings
) -> None:
    rows = manifests(shapes64, 24)
    made, least = passes(shapes64, settings, rows["uniform"], 2)
    assert made == least == 12 * 20
    whole, _ = passes(shapes64, settings, rows["mixed"], 2)
    part = [replace(row, guidance_end=0.5) for row in rows["mixed"]]
    made, least = passes(shapes64, settings, part, 2)
    assert least <= made < 0.9 * whole
