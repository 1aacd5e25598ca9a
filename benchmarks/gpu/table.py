"""All parts that are done, as one table and one JSON file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import ALGORITHMS, CEILING, all_parts

WORTH = 1.02
"""How many times as fast the larger workspaces must be for the advice to take them."""


def write(folder: Path) -> str:
    """Write `all.json` and `table.md` from the parts' files in a folder; return the table."""
    done = {
        part.name: json.loads(file.read_text())
        for part in all_parts()
        if (file := folder / f"{part.name}.json").exists()
    }
    (folder / "all.json").write_text(json.dumps(done, indent=2) + "\n")
    text = "\n".join(_lines(done)) + "\n"
    (folder / "table.md").write_text(text)
    return text


def _lines(done: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    ceilings = {
        algorithms: done[f"{CEILING}-{algorithms}"]["ceiling"]
        for algorithms in ALGORITHMS
        if f"{CEILING}-{algorithms}" in done
    }
    if done:
        yield f"# {next(iter(done.values()))['device']}"
        yield ""
    if ceilings:
        yield from _ceiling_lines(ceilings)
    rendered = {name: each for name, each in done.items() if "rows" in each}
    if rendered:
        yield "| part | way | B | images/s | times p1 | TFLOP/s | of the ceiling | GPU busy |"
        yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
        for name, each in rendered.items():
            yield from _part_lines(name, each, ceilings.get("fixed", {}))
        yield ""
    for name, each in rendered.items():
        yield from _remarks(name, each)
    yield from _advice(rendered)


def _ceiling_lines(ceilings: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    yield "| matrix products | precision | side | TFLOP/s |"
    yield "| --- | --- | --- | --- |"
    for algorithms, by_precision in ceilings.items():
        for precision, by_side in by_precision.items():
            for side, tflops in by_side.items():
                yield f"| {algorithms} | {precision} | {side} | {tflops:.1f} |"
    yield ""


def _part_lines(
    name: str, part: Mapping[str, Any], ceiling: Mapping[str, Mapping[str, float]]
) -> Iterator[str]:
    most = max(ceiling.get(part["precision"], {"": 0.0}).values())
    for row in part["rows"]:
        tflops = row["images_a_second"] * part["tflop_an_image"]
        share = f"{100 * tflops / most:.0f} %" if most else ""
        p1 = _speed(part["rows"], "p1", row["slots"])
        times = f"{row['images_a_second'] / p1:.2f}" if p1 else ""
        busy = row.get("gpu_busy_percent")
        yield (
            f"| {name} | {row['way']} | {row['slots']} | {row['images_a_second']:.2f} | {times} "
            f"| {tflops:.2f} | {share} | {'' if busy is None else f'{busy:.0f} %'} |"
        )


def _speed(rows: Sequence[Mapping[str, Any]], way: str, slots: int) -> float | None:
    return next(
        (r["images_a_second"] for r in rows if r["way"] == way and r["slots"] == slots), None
    )


def _remarks(name: str, part: Mapping[str, Any]) -> Iterator[str]:
    certificate = part.get("certificate")
    if certificate is not None:
        word = "holds" if certificate["holds"] else "**does not hold**"
        yield f"- {name}: certificate ({certificate['promise']}) {word}."
    for what in part["left_out"]:
        yield f"- {name}: left out: {what}."


def _advice(rendered: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What the workspaces of cuBLAS and free algorithms gain, where both were measured."""
    for name, fixed in rendered.items():
        if not name.endswith("-fixed"):
            continue
        for algorithms in ("larger", "free"):
            other = rendered.get(f"{name.removesuffix('fixed')}{algorithms}")
            if other is None:
                continue
            ratios = [
                row["images_a_second"] / now
                for row in other["rows"]
                if row["way"] == "engine" and (now := _speed(fixed["rows"], "engine", row["slots"]))
            ]
            if ratios:
                yield f"- {name}: {algorithms} is {max(ratios):.2f} times as fast at best. " + (
                    _say(algorithms, max(ratios), other)
                )


def _say(algorithms: str, ratio: float, part: Mapping[str, Any]) -> str:
    if ratio < WORTH:
        return "Keep the default."
    if algorithms == "free":
        return "`reproducible = false` gains that, and no bits are promised."
    if not (part.get("certificate") or {}).get("holds"):
        return "Its certificate does not hold: keep the default where bits count."
    return 'Its certificate holds: set `cublas_workspace = ":4096:8"`.'
