"""Which column means what: the one table of names and synonyms.

Names are compared without regard to case, and with spaces and hyphens as underscores. A column
that is not in the table is an extra: kept as it stands, never interpreted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from imagemill.scheduler_jobs.manifest.problems import BadValue, Broken, shown

PROMPT = "prompt"
KEY = "id"
SIZE = "size"
EXTRA = "extra"
"""What `--map column=extra` names: leave this column alone."""

FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        PROMPT: ("prompts", "positive_prompt"),
        KEY: (),
        "negative_prompt": ("negative", "negative_prompts", "neg_prompt"),
        "model": ("model_name", "checkpoint", "sd_model"),
        "width": (),
        "height": (),
        SIZE: (),
        "steps": ("step", "num_inference_steps", "sampling_steps", "inference_steps"),
        "guidance_scale": ("guidance", "cfg", "cfg_scale"),
        "sampler": ("sampler_name", "scheduler", "scheduler_name"),
        "seed": (),
        "seeds": (),
        "samples": (
            "num_images",
            "num_samples",
            "n_samples",
            "images_per_prompt",
            "num_images_per_prompt",
        ),
        "format": ("output_format", "image_format", "file_format"),
        "quality": ("jpeg_quality",),
        "init_image": ("init_img", "input_image"),
        "mask": ("mask_image",),
        "strength": ("denoising_strength",),
        "start_step": (),
        "clip_skip": (),
        "guidance_rescale": (),
        "eta": (),
        "sampler_options": (),
        "long_prompts": (),
        "prompt_weighting": (),
        "adapters": ("loras", "lora"),
        "refiner_start": ("refiner_switch_at", "denoising_end"),
    }
)
"""Every field that a column can fill, and the other names that people give it.

Left out on purpose: `n` and `num` (as often a running number as a count), `image` (a picture in
Hugging Face data sets), and single letters.
"""

PROMPT_FALLBACKS = ("caption", "text")
"""Names that mean the prompt only where no column is called prompt."""

_LISTED_COLUMNS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a row's columns are read: field to column, and the columns that are extras."""

    fields: Mapping[str, str]
    extras: tuple[str, ...]


def folded(name: str) -> str:
    """A column's name as it is compared."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _aliases() -> Mapping[str, str]:
    return MappingProxyType(
        {alias: field for field, others in FIELDS.items() for alias in (field, *others)}
    )


_ALIASES = _aliases()


def field_of(column: str) -> str | None:
    """The field that a column's name means by itself, None for an extra."""
    return _ALIASES.get(folded(column))


def lay_out(columns: Sequence[str], mapping: Mapping[str, str]) -> Layout:
    """Tell which columns are which fields; `mapping` (column to field) goes first.

    Raises:
        BadValue: no column is the prompt, or two columns are the same field.
    """
    fields: dict[str, str] = {}
    extras: list[str] = []
    for column in columns:
        field = mapping.get(column) or field_of(column)
        if field is None or field == EXTRA:
            extras.append(column)
        elif field in fields:
            raise BadValue(
                f"columns {shown(fields[field])} and {shown(column)} both mean {field}",
                f"one column for {field}; --map {column}=extra leaves one alone",
            )
        else:
            fields[field] = column
    if PROMPT not in fields:
        _fall_back(fields, extras, mapping)
    return Layout(fields=fields, extras=tuple(extras))


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Raise `Broken` if `--map` names a field that does not exist."""
    for column, field in mapping.items():
        if field != EXTRA and field not in FIELDS:
            raise Broken(
                f"--map {column}={field} names no field", f"one of {', '.join(FIELDS)}, {EXTRA}"
            )


def _fall_back(fields: dict[str, str], extras: list[str], mapping: Mapping[str, str]) -> None:
    for name in PROMPT_FALLBACKS:
        for column in extras:
            if folded(column) == name and column not in mapping:
                fields[PROMPT] = column
                extras.remove(column)
                return
    columns = [*fields.values(), *extras]
    listed = ", ".join(shown(column) for column in columns[:_LISTED_COLUMNS])
    if len(columns) > _LISTED_COLUMNS:
        listed += f" and {len(columns) - _LISTED_COLUMNS} more"
    raise BadValue(
        f"no prompt among the columns {listed}" if columns else "no columns",
        "a column called prompt (or Prompt, Prompts, caption, text), or --map COLUMN=prompt",
    )
