"""Score the scorer on drawn shapes, a model folder on unseen prompts, or a folder of PNGs.

    python -m tools.shapes64.scorecard --drawn
    python -m tools.shapes64.scorecard worker/shapes64 --sampler ddim,euler --guidance 3,4.5
    python -m tools.shapes64.scorecard --pictures out/ --prompts prompts.txt

A prompts file has one prompt a line, for the folder's PNGs in the order of their names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tools.shapes64.command_line import new_parser
from tools.shapes64.score import (
    PROMPT_SEED,
    Recipe,
    Scores,
    load_pipeline,
    paint_prompts,
    random_prompts,
    score_drawn,
    score_pictures,
)

TARGETS = {"background": 0.95, "colour": 0.95, "kind": 0.90}
"""What the shipped model has to reach on unseen prompts."""

DRAWN_TARGET = 0.99
"""What the scorer itself has to reach on drawn shapes, in each of the three."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table."""

    what: str
    scores: Scores
    met: bool


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = new_parser("score_shapes64", __doc__)
    add = parser.add_argument
    add("model", type=Path, nargs="?", help="a diffusers folder")
    add("--drawn", action="store_true", help="score the scorer on drawn shapes")
    add("--pictures", type=Path, help="score this folder's PNGs")
    add("--prompts", type=Path, help="their prompts, one a line")
    add("--count", type=int, default=500, help="prompts, or drawn shapes (default 500)")
    add("--seed", type=int, default=PROMPT_SEED, help=f"seed of the prompts ({PROMPT_SEED})")
    add("--seen", action="store_true", help="prompts of the training's triples instead")
    add("--sampler", default="", help="comma list of imagemill's samplers (default: its own)")
    add("--steps", type=int, default=20, help="sampler steps (default 20)")
    add("--guidance", default="4.5", help="comma list of guidance scales (default 4.5)")
    add("--keep", type=Path, help="folder for the pictures drawn by the model")
    add("--json", action="store_true", help="print JSON, every wrong picture included")
    return parser


def model_results(given: argparse.Namespace) -> Iterator[Result]:
    """Score a model folder with every sampler and guidance that the command line names."""
    prompts = random_prompts(given.count, seed=given.seed, unseen=not given.seen)
    for sampler in given.sampler.split(",") if given.sampler else [None]:
        pipeline = load_pipeline(given.model, sampler)
        for guidance in map(float, given.guidance.split(",")):
            recipe = Recipe(steps=given.steps, guidance=guidance)
            pictures = paint_prompts(pipeline, prompts, recipe)
            if given.keep:
                keep_pictures(given.keep, pictures, prompts)
            scores = score_pictures(pictures, prompts)
            name = sampler or type(pipeline.scheduler).__name__
            what = f"{name}, {given.steps} steps, guidance {guidance:g}"
            yield Result(what=what, scores=scores, met=meets_targets(scores))


def meets_targets(scores: Scores) -> bool:
    """Whether enough pictures are right, in each of the three respects."""
    return all(getattr(scores, part) >= least for part, least in TARGETS.items())


def keep_pictures(folder: Path, pictures: list[Image.Image], prompts: list[str]) -> None:
    """Write PNGs and prompts.txt as `--pictures` and `--prompts` read them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n")
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number:05}.png")


def results(given: argparse.Namespace) -> Iterator[Result]:
    """Everything that the command line asks for, one after another."""
    if given.drawn:
        scores = score_drawn(given.count)
        parts = (scores.background, scores.colour, scores.kind)
        yield Result(what="drawn shapes", scores=scores, met=min(parts) >= DRAWN_TARGET)
    if given.pictures:
        prompts = given.prompts.read_text().splitlines()
        pictures = [Image.open(path) for path in sorted(given.pictures.glob("*.png"))]
        scores = score_pictures(pictures, prompts)
        yield Result(what=str(given.pictures), scores=scores, met=meets_targets(scores))
    if given.model:
        yield from model_results(given)


def main(words: list[str] | None = None) -> int:
    """Print a table or JSON; 0 when every target is met, else 1."""
    parser = arguments()
    given = parser.parse_args(words)
    if not (given.drawn or given.model or given.pictures):
        parser.error("nothing to score: give a model folder, --drawn or --pictures")
    if given.pictures and not given.prompts:
        parser.error("--pictures needs --prompts")
    found = []
    for result in results(given):
        found.append(result)
        if not given.json:
            print_row(result, head=len(found) == 1)
    if given.json:
        rows = [{"what": r.what, "met": r.met, **r.scores.as_json()} for r in found]
        print(json.dumps(rows, indent=1))
    return 0 if all(result.met for result in found) else 1


def print_row(result: Result, *, head: bool) -> None:
    """One line of the table, after its head if this is the first."""
    if head:
        print(f"{'':42}{'pictures':>9}{'background':>12}{'colour':>8}{'kind':>8}{'all':>8}")
    scores = result.scores
    shares = (scores.background, scores.colour, scores.kind, scores.everything)
    told = "".join(f"{100 * s:{w}.1f}" for s, w in zip(shares, (12, 8, 8, 8), strict=True))
    print(f"{result.what:42}{scores.pictures:9}{told}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
