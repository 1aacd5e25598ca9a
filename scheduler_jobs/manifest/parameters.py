"""The parameters of an image that a row, the command line or a defaults file may set."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, model_validator

from imagemill.db.seeds import SEED_LIMIT
from imagemill.db.specs import ImageFormat
from imagemill.scheduler_jobs.manifest import values
from imagemill.scheduler_jobs.manifest.limits import Limits
from imagemill.scheduler_jobs.manifest.problems import BadValue

MOST_SCALE = 10
"""Of a ControlNet or an IP-Adapter; useful values are up to 2."""

_EXCLUSIVE: Mapping[str, tuple[str, ...]] = {
    "seed": ("seeds",),
    "seeds": ("seed", "samples"),
    "samples": ("seeds",),
    "strength": ("start_step",),
    "start_step": ("strength",),
}


def _reads(function: Callable[..., Any], **limits: str) -> BeforeValidator:
    """Read a field with `function`. Each keyword gets the limit that its value names."""

    def read(value: Any, info: ValidationInfo) -> Any:
        if value is None:
            return None
        known = {name: _limit(info, limit) for name, limit in limits.items()}
        return function(value, **known)

    return BeforeValidator(read)


def _limit(info: ValidationInfo, name: str) -> int | None:
    # Without a context there are no limits: the value comes from our own code.
    return None if info.context is None else int(getattr(_limits(info), name))


def _limits(info: ValidationInfo) -> Limits:
    assert isinstance(info.context, Limits)
    return info.context


_TEXT = partial(values.text, empty=True)
_STEPS = partial(values.whole, low=1)
_COUNT = partial(values.whole, low=1)
_QUALITY = partial(values.whole, low=1, high=100)
_CLIP_SKIP = partial(values.whole, low=1, high=24)
_START_STEP = partial(values.whole, low=0)
_GUIDANCE = partial(values.number, low=0, setting="IMAGEMILL_MAX_GUIDANCE_SCALE")
_SHARE = partial(values.number, low=0, high=1)
_SCALE = partial(values.number, low=0, high=MOST_SCALE)
_PART = partial(values.number, low=0, high=1, above_low=True)
_LONG_PROMPTS = partial(values.choice, allowed=("truncate", "chunk"))


class AdapterChoice(BaseModel):
    """An adapter's name in the registry, and its weight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weight: float = 1.0


class Parameters(BaseModel):
    """Everything about a row's images except the prompt. None means not set in this layer.

    `values` reads every field, from text or typed data. So a CSV cell, a JSON value, a flag and a
    TOML default follow the same rules. Upper limits are checked if validation gets a `Limits` as
    its context. `sampler` and `format` become canonical names. `seed` -1 means: derive one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    negative_prompt: Annotated[str | None, _reads(_TEXT, most_bytes="max_prompt_bytes")] = None
    model: Annotated[str | None, _reads(values.model)] = None
    width: Annotated[int | None, _reads(values.side, most_pixels="max_pixels")] = None
    height: Annotated[int | None, _reads(values.side, most_pixels="max_pixels")] = None
    steps: Annotated[int | None, _reads(_STEPS, high="max_steps")] = None
    guidance_scale: Annotated[float | None, _reads(_GUIDANCE, high="max_guidance_scale")] = None
    sampler: Annotated[str | None, _reads(values.sampler)] = None
    seed: Annotated[int | None, _reads(values.seed)] = None
    seeds: Annotated[tuple[int, ...] | None, _reads(values.seeds, most="max_samples")] = None
    samples: Annotated[int | None, _reads(_COUNT, high="max_samples")] = None
    format: Annotated[ImageFormat | None, _reads(values.image_format)] = None
    quality: Annotated[int | None, _reads(_QUALITY)] = None
    init_image: Annotated[str | None, _reads(values.input_file)] = None
    mask: Annotated[str | None, _reads(values.input_file)] = None
    strength: Annotated[float | None, _reads(_PART)] = None
    start_step: Annotated[int | None, _reads(_START_STEP, high="max_steps")] = None
    control_image: Annotated[str | None, _reads(values.input_file)] = None
    controlnet: Annotated[str | None, _reads(values.model)] = None
    control_scale: Annotated[float | None, _reads(_SCALE)] = None
    reference_image: Annotated[str | None, _reads(values.input_file)] = None
    reference_scale: Annotated[float | None, _reads(_SCALE)] = None
    guidance_start: Annotated[float | None, _reads(_SHARE)] = None
    guidance_end: Annotated[float | None, _reads(_SHARE)] = None
    clip_skip: Annotated[int | None, _reads(_CLIP_SKIP)] = None
    guidance_rescale: Annotated[float | None, _reads(_SHARE)] = None
    eta: Annotated[float | None, _reads(_SHARE)] = None
    sampler_options: Annotated[Mapping[str, values.Scalar] | None, _reads(values.options)] = None
    long_prompts: Annotated[Literal["truncate", "chunk"] | None, _reads(_LONG_PROMPTS)] = None
    prompt_weighting: Annotated[bool | None, _reads(values.boolean)] = None
    refiner_start: Annotated[float | None, _reads(_PART)] = None
    adapters: Annotated[tuple[AdapterChoice, ...] | None, _reads(values.adapters)] = None

    @model_validator(mode="after")
    def _agree(self, info: ValidationInfo) -> "Parameters":
        self.check(None if info.context is None else _limits(info))
        return self

    @property
    def count(self) -> int:
        """The number of images that these parameters ask for."""
        return len(self.seeds) if self.seeds is not None else (self.samples or 1)

    def check(self, limits: Limits | None = None) -> None:
        """Raise `BadValue` if fields contradict each other. Call it again after layering."""
        if self.seeds is not None and self.seed is not None:
            raise BadValue("both seed and seeds", "one of them")
        if self.seeds is not None and self.samples not in (None, len(self.seeds)):
            raise BadValue(
                f"{len(self.seeds)} seeds and samples {self.samples}", "as many samples as seeds"
            )
        if self.strength is not None and self.start_step is not None:
            raise BadValue("both strength and start_step", "one of them")
        start, end = self.guidance_start or 0.0, self.guidance_end
        if end is not None and start >= end:
            raise BadValue(f"guidance from {start:g} to {end:g}", "a start before the end")
        if self.guidance_start == 1 and end is None:
            raise BadValue("guidance from 1 to 1", "a start before the end")
        if self.seed is not None and self.seed + self.count > SEED_LIMIT:
            raise BadValue(
                f"seed {self.seed} and {self.count} samples", f"seed + samples up to {SEED_LIMIT}"
            )
        if limits and self.width and self.height and self.width * self.height > limits.max_pixels:
            raise BadValue(
                f"{self.width}x{self.height} = {self.width * self.height:,} pixels",
                f"at most {limits.max_pixels:,} pixels",
            )

    def over(self, lower: "Parameters") -> "Parameters":
        """These parameters; fields that are not set here are taken from `lower`.

        Fields of `lower` that contradict a field here are dropped: for example, `seeds` here
        replace a `seed` or `samples` below.
        """
        mine = self.settings()
        if not mine:
            return lower
        update: dict[str, Any] = {
            other: None for name in mine for other in _EXCLUSIVE.get(name, ())
        }
        return _valid(vars(lower) | update | mine)

    def with_seed(self, seed: int | None) -> "Parameters":
        """The same with another seed; the caller has checked it."""
        return _valid(vars(self) | {"seed": seed})

    def all_values(self) -> tuple[Any, ...]:
        """The value of every field, in the order of the fields; None where it is not set."""
        return tuple(vars(self).values())

    def settings(self) -> dict[str, Any]:
        """The fields that are set, by name."""
        # Iterating over the model would take three times as long, and every row needs this.
        return {name: value for name, value in vars(self).items() if value is not None}


SEED_PLACE = tuple(Parameters.model_fields).index("seed")
"""Where `Parameters.all_values` has the seed."""

_EVERY_FIELD = set(Parameters.model_fields)


def _valid(fields: dict[str, Any]) -> Parameters:
    """Parameters of these fields, all of them, each of which was validated before.

    Every row needs several. pydantic's own `model_construct` and `model_copy` look at each field
    once more and take six times as long.
    """
    made = Parameters.__new__(Parameters)
    set_slot = object.__setattr__
    set_slot(made, "__dict__", fields)
    set_slot(made, "__pydantic_fields_set__", _EVERY_FIELD)
    set_slot(made, "__pydantic_extra__", None)
    set_slot(made, "__pydantic_private__", None)
    return made
