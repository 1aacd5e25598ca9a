"""From one manifest row to many: prompt variants, wildcards and grids over parameters.

It must be asked for: without it, a `{` is only a character. Nothing here depends on a row's place
in its manifest, so inserting a row changes no other row's pictures.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from imagemill.db.seeds import prompt_hash
from imagemill.scheduler_jobs.expansion.grids import NO_GRID, Grid, parse_grid
from imagemill.scheduler_jobs.expansion.templates import Templates
from imagemill.scheduler_jobs.manifest import BadValue, Limits, ManifestRow, Parameters, Problem

_COUNTED = 10**15
"""From here on, a number of prompts is not written out."""

Variants = Literal["off", "all", "sample"]

__all__ = [
    "NO_GRID",
    "Expansion",
    "Grid",
    "Templates",
    "Variants",
    "expand",
    "parse_grid",
    "seed_base",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Expansion:
    """How every row of a job is expanded.

    `variants`: `off` takes a prompt as it is written, `all` makes every prompt of a template once,
    `sample` draws `draws` of them by the job's seed; a prompt that is drawn twice counts once.
    `grid`: the cells of the grid. Their settings come before the row's own.
    """

    variants: Variants = "off"
    draws: int = 1
    job_seed: int = 0
    grid: Grid = NO_GRID
    templates: Templates = field(default_factory=Templates)


def expand(
    row: ManifestRow, expansion: Expansion, *, file: str, limits: Limits, occurrence: int = 0
) -> Iterator[ManifestRow | Problem]:
    """The row's cells, prompts outermost; or the problem that it has.

    A cell is the row with one resolved prompt and the parameters of one cell of the grid.
    `limits.max_samples` bounds the cells of a row and `max_prompt_bytes` each prompt; `file` is
    what a problem calls the manifest; `occurrence` counts equal prompts that came before.
    """
    if expansion.variants == "off" and expansion.grid is NO_GRID:
        yield row
        return
    try:
        prompts = _prompts(row, expansion, limits, occurrence)
        grid = _over(row, expansion.grid, len(prompts), limits)
    except BadValue as bad:
        yield Problem(
            file=file,
            row=row.number,
            line=row.line or None,
            column="prompt",
            found=bad.found,
            allowed=bad.allowed,
        )
        return
    for prompt in prompts:
        for parameters in grid:
            if prompt == row.prompt and parameters is row.parameters:
                yield row
            else:
                template = row.prompt if prompt != row.prompt else None
                yield replace(row, prompt=prompt, parameters=parameters, template=template)


def seed_base(row: ManifestRow) -> str:
    """What a cell's seeds come from: the row's `id`, and the prompt where that alone differs.

    The cells of a grid share it, and so their seeds. Two prompts of one row do not, and a
    further option in a template changes no other prompt's seed.
    """
    if row.key is not None and row.template is None:
        return f"id:{row.key}"
    by_prompt = f"prompt:{prompt_hash(row.prompt)}"
    return by_prompt if row.key is None else f"id:{row.key}:{by_prompt}"


def _prompts(row: ManifestRow, expansion: Expansion, limits: Limits, occurrence: int) -> list[str]:
    if expansion.variants == "off":
        return [row.prompt]
    template = expansion.templates.read(row.prompt)
    if template.longest > limits.max_prompt_bytes:
        found = f"a template of prompts of up to {template.longest:,} bytes"
        raise BadValue(found, f"at most {limits.max_prompt_bytes:,} bytes")
    made: Iterator[str]
    if expansion.variants == "sample":
        key = f"{expansion.job_seed}\0{occurrence}\0{row.key or row.prompt}"
        made = (template.draw(f"{key}\0{n}") for n in range(expansion.draws))
    elif template.count > limits.max_samples:
        many = f"{template.count:,}" if template.count < _COUNTED else "a great many"
        found = f"a template of {many} prompts"
        raise BadValue(found, f"at most {limits.max_samples:,}, or --variants sample")
    else:
        made = template.texts()
    # Equal prompts would be equal pictures.
    prompts = list(dict.fromkeys(made))
    if not all(prompt.strip() for prompt in prompts):
        raise BadValue("a template that can be empty", "a prompt in every variant")
    return prompts


def _over(row: ManifestRow, grid: Grid, prompts: int, limits: Limits) -> list[Parameters]:
    if prompts * len(grid) > limits.max_samples:
        found = f"{prompts:,} prompts x {len(grid):,} cells of the grid"
        raise BadValue(found, f"at most {limits.max_samples:,}")
    cells = [cell.over(row.parameters) for cell in grid]
    for cell in cells:
        cell.check(limits)
    return cells
