"""What a file says is used, kept or refused: each value of an accepted row is looked for.

A value must stand in the images' specifications as its column's field, or in the row's extras. A
row with a finding is not accepted, so what is in neither was dropped without a word. The oracle
knows what the fuzz wrote, and nothing of how a file was read.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from imagemill.db.samplers.names import find_sampler
from imagemill.db.specs import ImageSpec
from imagemill.scheduler_jobs.submit.planning.planned_rows import PlannedRow
from tests.fuzz.inputs import MARK, FuzzedFile
from tests.fuzz.writers import in_xml

_MOST_SPECS = 400
_DIGITS = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?(?:e[+-]?[0-9]{1,3})?", re.ASCII)


def check_values(file: FuzzedFile, row: PlannedRow) -> bool:
    """Assert that no value of a row was dropped; False where the row is not known."""
    extras = row.extras
    written = file.rows.get(str(extras.get(MARK)))
    if written is None:
        return False
    specs = [each.spec() for each in islice(row.requests(0), _MOST_SPECS)]
    kept = {_text(value, file.kind) for value in extras.values()}
    gridded = {axis.partition("=")[0] for axis in file.grid}
    gridded |= {"seeds"} if "seed" in gridded else set()  # an axis over seeds replaces both
    fields = {
        column: file.columns.get(column, column).strip().casefold()
        for column, value in written.items()
        if not _says_nothing(value, file.kind)
    }
    for column, field in fields.items():
        value = written[column]
        if file.kind == "keyed" and column == "id":
            continue
        if _text(value, file.kind) in kept or column in gridded:
            continue
        if _ONLY_WITHOUT.get(field) in fields.values():
            continue
        used = _USES.get(field)
        assert used is not None, f"{column!r}: {value!r} is in no extra, and no field"
        assert used(value, row, specs), f"{column!r}: {value!r} was dropped"
    return True


def _says_nothing(value: Any, kind: str) -> bool:
    """Whether a cell is empty there: null; a blank cell of a table; NaN, which becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return kind in {"parquet", "arrow"}
    if isinstance(value, str) and kind in {"csv", "tsv", "xlsx"}:
        return not in_xml(value).strip()
    return value is None


def _text(value: Any, kind: str) -> str:
    """A value as it can be compared over formats: numbers by their digits, without nulls."""
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, str):
        text = value.replace("_x000D_", "\n")
        text = in_xml(text) if kind == "xlsx" else text
        return "".join(text.encode("utf-8", "replace").decode().split())
    return "".join(json.dumps(_plain(value), sort_keys=True).split())


def _plain(value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value) and abs(value) < 2**53:
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


Use = Callable[[Any, PlannedRow, list[ImageSpec]], bool]


def _attribute(name: str) -> Use:
    """Whether all specifications have the value under this name, as a number or as a word."""

    def used(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
        del row
        found = {getattr(spec, name) for spec in specs}
        number = _number(value)
        if number is not None and not isinstance(value, bool):
            return all(_number(each) == number for each in found)
        return found == {str(value).strip()}

    return used


def _prompt(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    del specs
    return _same(value, row.template or row.cells[0].row.prompt)


def _negative(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    del row
    return all(_same(value, spec.negative_prompt) for spec in specs)


def _same(written: Any, read: str) -> bool:
    return any(_text(written, kind) == _text(read, kind) for kind in ("", "xlsx"))


def _key(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    del specs
    # An empty id is none.
    return value == "" if row.key is None else _same(value, row.key)


def _seed(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    number = row.cells[0].parameters.seed
    same = number is not None and float(number) == _number(value)
    return same and (number == -1 or specs[0].seed == number)


def _seeds(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    del specs
    items = (
        value if isinstance(value, list) else str(value).strip("[]").replace(";", ",").split(",")
    )
    given = row.cells[0].parameters.seeds or ()
    return [_number(item) for item in items] == [float(seed) for seed in given]


def _samples(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    del specs
    count = _number(value) or 0
    return bool(count) and row.cells[0].parameters.count % count == 0


def _size(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    del row
    digits = "".join(c if c.isdigit() else " " for c in str(value)).split()
    return {(str(spec.width), str(spec.height)) for spec in specs} == {tuple(digits)}


def _sampler(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    del row
    sampler = find_sampler(str(value))
    return sampler is not None and all(spec.sampler.startswith(sampler.name) for spec in specs)


def _format(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    del row
    word = str(value).strip().casefold().removeprefix(".").replace("jpg", "jpeg")
    return {spec.format for spec in specs} == {word}


def _given(name: str) -> Use:
    """Whether the row's parameters, and the specifications, have something under this name."""

    def used(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
        del value
        field = "strength" if name == "start_step" else name
        return getattr(row.cells[0].parameters, name) is not None and all(
            getattr(spec, field) is not None for spec in specs
        )

    return used


def _eta(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    del row
    return all(dict(spec.sampler_options).get("eta") == _number(value) for spec in specs)


def _options(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    del row
    options = json.loads(value) if isinstance(value, str) else value
    # Arrow gives every row the keys of all rows.
    return all(
        dict(spec.sampler_options).get(name) == option
        for spec in specs
        for name, option in options.items()
        if option is not None
    )


def _strength(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    """As any number. Without a picture, 1 asks for nothing: every image begins as noise alone."""
    if _number(value) == 1 and all(spec.init_image is None for spec in specs):
        return all(spec.strength in {None, 1} for spec in specs)
    return _attribute("strength")(value, row, specs)


def _adapters(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    del row
    if isinstance(value, str) and not value.strip():
        return not any(spec.adapters for spec in specs)  # a blank text names none
    return value in ([], "[]") or all(spec.adapters for spec in specs)


def _refiner_start(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    # 1 asks for no refiner, which is what a model without one does.
    return _number(value) == 1 or _attribute("refiner_start")(value, row, specs)


def _weighting(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    del row
    wanted = str(value).strip().casefold() in {"true", "yes", "1", "on"}
    return all(spec.prompt_weighting == wanted for spec in specs)


def _schedule(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
    del row
    word = str(value).strip().casefold()
    return all(word in spec.sampler or find_sampler(word) is not None for spec in specs)


def _where_guided(name: str) -> Use:
    """As `_attribute`, of the specifications that are guided: to others it makes no difference."""
    attribute = _attribute(name)

    def used(value: Any, row: PlannedRow, specs: list[ImageSpec]) -> bool:
        return attribute(value, row, [spec for spec in specs if spec.guidance_scale > 1])

    return used


_ONLY_WITHOUT = {"sampler_index": "sampler"}
"""Fields that are read only where another is empty, as the tool that has them reads them."""

_USES: Mapping[str, Use] = {
    "prompt": _prompt,
    "caption": _prompt,
    "text": _prompt,
    "id": _key,
    "negative_prompt": _negative,
    "model": _attribute("model"),
    "width": _attribute("width"),
    "height": _attribute("height"),
    "size": _size,
    "steps": _attribute("steps"),
    "guidance_scale": _attribute("guidance_scale"),
    "sampler": _sampler,
    "sampler_index": _sampler,
    "schedule": _schedule,
    "seed": _seed,
    "seeds": _seeds,
    "samples": _samples,
    "n": _samples,
    "batch_size": _samples,
    "n_iter": _samples,
    "format": _format,
    "quality": _attribute("quality"),
    "init_image": _given("init_image"),
    "mask": _given("mask"),
    "strength": _strength,
    "start_step": _given("start_step"),
    "clip_skip": _attribute("clip_skip"),
    "guidance_rescale": _attribute("guidance_rescale"),
    "eta": _eta,
    "sampler_options": _options,
    "long_prompts": _attribute("long_prompts"),
    "prompt_weighting": _weighting,
    "adapters": _adapters,
    "refiner_start": _refiner_start,
    "guidance_start": _where_guided("guidance_start"),
    "guidance_end": _where_guided("guidance_end"),
    "control_image": _given("control_image"),
    "control_scale": _attribute("control_scale"),
    "reference_image": _given("reference_image"),
    "reference_scale": _attribute("reference_scale"),
}
"""How a value of each field is found again."""
