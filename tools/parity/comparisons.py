"""What is compared for the parity tables: models of every family, their rows, their oracles."""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import diffusers
from PIL import Image, ImageDraw

from imagemill.db.models.registry import BUILT_IN, load_registry
from imagemill.db.samplers.names import SAMPLERS
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.db.states import Outcome
from imagemill.worker.engine import Failed
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from tools.parity import pipeline_oracle, ways_of_working
from tools.parity.oracle import (
    Oracle,
    Pixels,
    RefinedOracle,
    UnconditionalOracle,
    XLOracle,
    worst_difference,
)
from tools.parity.pipeline_oracle import PipelineOracle
from tools.parity.ways_of_working import FROM_PICTURE, IN_MASK, Scenes, WayOracle
from tools.small_models import families
from tools.small_models.guided import distilled, inpainting, save_ddpm, save_refiner, save_sdxl

SLOTS = 4
FROM_NOISE = "from noise"
WAYS = (FROM_NOISE, *ways_of_working.WAYS)

USUAL = tuple(sampler.name for sampler in SAMPLERS if not sampler.flow)
FLOW = tuple(sampler.name for sampler in SAMPLERS if sampler.flow)
ONE_OF_EACH_KIND = (
    *("ddim", "ddpm", "pndm", "lms", "euler", "euler_a", "heun", "kdpm2_a"),
    *("dpmpp_2m_karras", "dpmpp_2m_sde", "dpmpp_sde", "dpmpp_2s", "unipc", "deis"),
)

_BESIDE: Mapping[str, str] = {
    "flux_dev": ", distilled guidance",
    "stable_diffusion_3_5": ", SD 3.5",
}
"""What a title says of a family whose pipeline another family has too."""

_FLOW_CONFIG = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}


class Drawing(Protocol):
    """What an oracle does."""

    def same_shape(self, spec: ImageSpec, *, slots: int) -> Pixels:
        """The row from forward passes of the engine's shape."""

    def alone(self, spec: ImageSpec) -> Pixels:
        """The row by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row to compare, and where it stands in a table."""

    way: str
    title: str
    spec: ImageSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Rows of one group, to be rendered in one mixed run of the engine, and who checks them.

    `inputs` are the files of init images and masks by digest.
    """

    model: Model
    oracle: Drawing
    rows: Sequence[Row]
    inputs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The worst differences of one row in one value of one pixel, in 1/255."""

    way: str
    title: str
    same_shape: int
    alone: int


def compare(comparison: Comparison, settings: Settings) -> list[Difference]:
    """Every row of a comparison, rendered by the engine and by its oracle, in their order."""
    found: dict[int, Difference] = {}
    rows = comparison.rows
    engine = open_engine(
        comparison.model,
        rows[0].spec.group(),
        settings,
        SLOTS,
        inputs=comparison.inputs.__getitem__,
    )
    waiting = [(ticket, row.spec) for ticket, row in enumerate(rows)]
    while waiting or engine.busy:
        room = engine.room()
        engine.admit(waiting[:room])
        del waiting[:room]
        for result in engine.step():
            row = rows[result.ticket]
            if isinstance(result, Failed):
                raise result.error
            if result.outcome is not Outcome.OK or result.pixels.std() <= 1:
                raise RuntimeError(f"{row.title}: {result.outcome}, which compares nothing")
            same_shape = comparison.oracle.same_shape(row.spec, slots=SLOTS)
            found[result.ticket] = Difference(
                way=row.way,
                title=row.title,
                same_shape=worst_difference(result.pixels, same_shape),
                alone=worst_difference(result.pixels, comparison.oracle.alone(row.spec)),
            )
    return [found[ticket] for ticket in sorted(found)]


def register(folder: Path) -> Settings:
    """Settings whose registry knows the small models that are going to be saved in `folder`."""
    tables = ['[models.sdxl]\nsource = "sdxl"\n']
    tables += ['[models.refined]\nsource = "sdxl"\nparts = { refiner = { source = "refiner" } }\n']
    tables += ['[models.ddpm]\nsource = "ddpm"\nkind = "unconditional"\n']
    names = families.FAMILIES.keys() | ways_of_working.PIPELINES.keys()
    tables += [ways_of_working.registry_tables(name) for name in sorted(names)]
    (folder / "models.toml").write_text("".join(tables), "utf-8")
    return Settings.load(models=folder / "models.toml", device="cpu", dtype="fp32", threads=1)


def _trained(folder: Path, settings: Settings, steps: int) -> Iterator[Comparison]:
    del folder
    model = _load(BUILT_IN, settings)
    flow = replace(model, scheduler_config=_FLOW_CONFIG)
    for which, samplers in ((model, USUAL), (flow, FLOW)):
        yield from _in_each_way(which, Oracle, samplers, _size(64) | {"steps": steps})


def _noise(folder: Path, settings: Settings, steps: int) -> Iterator[Comparison]:
    del folder
    model = _load(BUILT_IN, settings)
    config = {**model.scheduler_config, "prediction_type": "epsilon"}
    noise = replace(model, scheduler_config=config)
    return _in_each_way(noise, Oracle, ONE_OF_EACH_KIND, _size(64) | {"steps": steps})


def _inpainting(folder: Path, settings: Settings, steps: int) -> Iterator[Comparison]:
    del folder
    model = inpainting(_load(BUILT_IN, settings))
    values = _size(64) | {"steps": steps}
    return _in_each_way(model, Oracle, ONE_OF_EACH_KIND, values, (IN_MASK,))


def _distilled(folder: Path, settings: Settings, steps: int) -> Iterator[Comparison]:
    del folder
    model = distilled(_load(BUILT_IN, settings))
    samplers = ("lcm", "tcd", "ddim", "euler")
    values = _size(64) | {"steps": steps}
    return _in_each_way(model, Oracle, samplers, values, (FROM_NOISE, FROM_PICTURE))


def _xl(folder: Path, settings: Settings, steps: int) -> Iterator[Comparison]:
    save_sdxl(folder / "sdxl")
    model = _load("sdxl", settings)
    return _in_each_way(model, XLOracle, USUAL, _size(32) | {"steps": steps})


def _refined(folder: Path, settings: Settings, steps: int) -> Iterator[Comparison]:
    save_sdxl(folder / "sdxl")
    save_refiner(folder / "refiner")
    model = _load("refined", settings)
    values = _size(32) | {"steps": steps, "refiner_start": 0.6}
    yield from _in_each_way(model, RefinedOracle, USUAL, values, (FROM_NOISE,))
    # A weaker start lies beyond the base's part, which diffusers' two calls can't be told.
    yield from _in_each_way(
        model, RefinedOracle, USUAL, values | {"strength": 0.9}, (FROM_PICTURE,)
    )


def _unconditional(folder: Path, settings: Settings, steps: int) -> Iterator[Comparison]:
    save_ddpm(folder / "ddpm")
    model = _load("ddpm", settings)
    values = _size(16) | {"steps": steps, "prompt": "", "negative_prompt": ""}
    rows = _rows(model, ("ddpm", "ddim"), FROM_NOISE, values)
    yield Comparison(model=model, oracle=UnconditionalOracle(model), rows=rows)


def _pipelines(folder: Path, settings: Settings, steps: int) -> Iterator[Comparison]:
    for name in families.FAMILIES:
        yield from _by_pipeline(name, folder, settings, steps)


def _ways(folder: Path, settings: Settings, steps: int) -> Iterator[Comparison]:
    scene, mask = _inputs(64)
    scenes = Scenes(picture=(_digest(scene), scene), mask=(_digest(mask), mask))
    files = dict((scenes.picture, scenes.mask))
    for name, pipelines in ways_of_working.PIPELINES.items():
        ways_of_working.save_model(name, folder)
        model = _load(name, settings)
        registry = load_registry(settings)
        for way in pipelines:
            values = _size(64) | {
                "steps": min(steps, 4),
                "guidance_scale": ways_of_working.guidance_scale(name, way),
                "negative_prompt": "",
            }
            values |= ways_of_working.fields(way, name, scenes, registry)
            row = Row(way=way, title=f"`{name}`", spec=_spec(model, "own", values))
            oracle = WayOracle(name, way, folder, scenes)
            yield Comparison(model=model, oracle=oracle, rows=[row], inputs=files)


TABLES: Mapping[str, Callable[[Path, Settings, int], Iterator[Comparison]]] = {
    "shapes64": _trained,
    "shapes64, taken for a model that predicts noise": _noise,
    "A U-Net made for inpainting": _inpainting,
    "A U-Net distilled from guidance": _distilled,
    "SDXL": _xl,
    "SDXL and its refiner": _refined,
    "Unconditional": _unconditional,
    "Other pipelines": _pipelines,
    "Ways of working": _ways,
}
"""Title → what makes its comparisons, given a folder for models, the settings and the steps."""


def _in_each_way(
    model: Model,
    oracle: type[Oracle],
    samplers: Sequence[str],
    values: Mapping[str, Any],
    ways: Sequence[str] = (FROM_NOISE, FROM_PICTURE, IN_MASK),
) -> Iterator[Comparison]:
    scene, mask = _inputs(values["width"])
    files = {_digest(data): data for data in (scene, mask)}
    changes: Mapping[str, Mapping[str, Any]] = {
        FROM_NOISE: {},
        FROM_PICTURE: {"init_image": _digest(scene), "strength": 0.6},
        IN_MASK: {"init_image": _digest(scene), "mask": _digest(mask), "strength": 0.8},
    }
    for way in ways:
        rows = _rows(model, samplers, way, {**changes[way], **values})
        yield Comparison(model=model, oracle=oracle(model, files), rows=rows, inputs=files)


def _by_pipeline(name: str, folder: Path, settings: Settings, steps: int) -> Iterator[Comparison]:
    """A family of the slot engine: its own sampler, and others that suit it."""
    families.build(name).save_pretrained(folder / name)
    model = _load(name, settings)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder / name, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    cases: list[tuple[str, Mapping[str, Any], Any]] = [("own", {}, None)]
    cases += [
        (sampler, options, scheduler)
        for family, sampler, options, scheduler in pipeline_oracle.SAMPLERS.values()
        if family == name
    ]
    values = _size(64) | {"steps": min(steps, 4), "guidance_scale": 3.5, "negative_prompt": ""}
    for sampler, options, scheduler in cases:
        spec = replace(_spec(model, sampler, values), sampler_options=tuple(options.items()))
        settled = "".join(f", {option} {value}" for option, value in options.items())
        title = f"{type(pipeline).__name__}: `{sampler}`{settled}{_BESIDE.get(name, '')}"
        row = Row(way=FROM_NOISE, title=title, spec=spec)
        oracle = PipelineOracle(name, pipeline, scheduler)
        yield Comparison(model=model, oracle=oracle, rows=[row])


def _rows(model: Model, samplers: Sequence[str], way: str, values: Mapping[str, Any]) -> list[Row]:
    return [Row(way=way, title=f"`{name}`", spec=_spec(model, name, values)) for name in samplers]


def _spec(model: Model, sampler: str, values: Mapping[str, Any]) -> ImageSpec:
    usual = {
        "model": model.name,
        "weights_digest": model.weights_digest,
        "prompt": "a red circle on a blue background",
        "negative_prompt": "green",
        "seed": 20,
        "guidance_scale": 5.0,
        "sampler": sampler,
    }
    return ImageSpec(**(usual | dict(values)))


def _size(side: int) -> dict[str, Any]:
    return {"width": side, "height": side}


def _load(name: str, settings: Settings) -> Model:
    return load_model(load_registry(settings).find(name), settings=settings)


def _inputs(side: int) -> tuple[bytes, bytes]:
    """A picture, and a mask that opens its left half."""
    scene = Image.new("RGB", (side, side), "navy")
    quarter = side // 4
    ImageDraw.Draw(scene).ellipse((quarter, quarter, 3 * quarter, 3 * quarter), fill="orange")
    mask = Image.new("L", (side, side), 0)
    mask.paste(255, (0, 0, side // 2, side))
    return _png(scene), _png(mask)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
