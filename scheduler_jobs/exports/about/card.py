"""The data-set card: a README.md that the Hugging Face Hub reads, in every export.

It says what was asked for, what rendered it, what was left out and why, and how to make it again.
Nothing in it depends on when the export ran, so two exports of one digest have one card.
Source: https://huggingface.co/docs/hub/datasets-cards
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from imagemill.scheduler_jobs.exports.export import Export
from imagemill.scheduler_jobs.exports.selection import ExportImage

CARD = "README.md"
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
"""The Hub's words for how large a set is."""

_PATTERNS = {
    "parquet": "data/{split}-*",
    "webdataset": "{folder}*.tar",
    "imagefolder": "{split}/**",
}
"""Where the Hub's viewer finds the pictures, for its own layouts."""

_PROMPT_CHARACTERS = 80

_AGAIN = """\
Every image has its prompt, seed, sampler, steps, guidance, size and the digest of the model's \
weights beside it. With the database, `imagemill reproduce IMAGE_ID` renders an image again and \
compares the pixels; `imagemill reproduce FILE` needs the picture alone, unless it was re-encoded. \
The same selection exported again gives the same bytes.

`imagemill_export.json` is the record of this export. `SHA256SUMS` lists every file: \
`sha256sum -c SHA256SUMS` checks them. `croissant.json` describes the set to programs."""


def write_card(export: Export, document: Mapping[str, Any]) -> None:
    """Write the card of an export whose files are all there."""
    lines = [
        _header(document, export.split_names),
        f"# {document['images']:,} images by imagemill",
        "",
        "These pictures were made by a machine: text-to-image models rendered them from prompts.",
        "",
        *_table(("", ""), _summary(document)),
        *("", "## What was asked for", ""),
        *_table(("job", "manifest", "its SHA-256", "seed", "defaults"), _jobs(document)),
        *("", "## Models", ""),
        *_table(("model", "digest of the weights", "licence", "images"), _models(document)),
        "",
        "The licences are those of the models. Whether they bind the pictures is for you to check.",
        *("", "## What was left out", ""),
        *_left_out(document),
        *("", "## How to make it again", "", _AGAIN, ""),
        *("## Samples", ""),
        *_table(
            ("row", "prompt", "seed", "sampler", "steps", "guidance", "size", "model"),
            map(_sample, sorted(export.plan.samples, key=lambda image: image["image_id"])),
        ),
    ]
    text = "\n".join([*lines, ""])
    export.target.write(CARD, text.encode("utf-8", "backslashreplace"))


def _header(document: Mapping[str, Any], splits: Any) -> str:
    """The YAML that the Hub reads. A licence only where that of every model is known."""
    images = document["images"]
    licenses = sorted({str(model["license"]) for model in document["models"]})
    header: dict[str, Any] = {"pretty_name": f"{images:,} images by imagemill"}
    if all(model["license"] for model in document["models"]):
        header["license"] = licenses if len(licenses) > 1 else licenses[0]
    header |= {
        "task_categories": ["text-to-image"],
        "tags": ["synthetic", "imagemill"],
        "size_categories": [next((w for most, w in _SIZES if images < most), "n>10M")],
    }
    if document["format"] in _PATTERNS:
        files = [
            {
                "split": name or "train",
                "path": _PATTERNS[document["format"]].format(
                    split=name or "train", folder=f"{name}/" if name else ""
                ),
            }
            for name in splits
        ]
        header["configs"] = [{"config_name": "default", "data_files": files}]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def _summary(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    selection = document["selection"]
    yield "images", f"{document['images']:,}"
    yield "rows", f"{document['rows']:,}"
    yield "layout", document["format"]
    yield "splits", _counted(document["splits"]) or "none"
    yield "sizes", _counted(document["sizes"])
    yield "samplers", _counted(document["samplers"])
    for name, ends in document["ranges"].items():
        least, most = (f"{end:g}" if isinstance(end, float) else str(end) for end in ends)
        yield name.replace("_", " "), least if least == most else f"{least} to {most}"
    yield "outcomes taken", ", ".join(selection["outcomes"])
    yield "condition", _code(selection["where"])
    yield "best of each row", _best(selection)
    form = document["options"]["pictures"]
    yield "pictures", _pictures(form)
    yield "invisible watermark", _code(form["watermark"])
    yield "signature (C2PA)", "none" if form["c2pa"] is None else form["c2pa"]["algorithm"]
    yield "digest", _code(document["digest"])


def _jobs(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for job in document["jobs"]:
        defaults = json.dumps(job["defaults"], ensure_ascii=False) if job["defaults"] else None
        yield (
            f"{job['job_id']} {_cell(job['job_name'])}",
            _cell(job["manifest"]),
            _code(job["manifest_sha256"]),
            str(job["seed"]),
            _code(defaults),
        )


def _models(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for model in document["models"]:
        yield (
            _cell(model["name"]),
            _code(model["weights_digest"]),
            _cell(model["license"] or "not known"),
            f"{model['images']:,}",
        )


def _left_out(document: Mapping[str, Any]) -> list[str]:
    left_out = document["left_out"]
    if not left_out:
        return ["Nothing."]
    return _table(("reason", "images"), ((_cell(why), f"{n:,}") for why, n in left_out.items()))


def _sample(image: ExportImage) -> tuple[str, ...]:
    prompt = " ".join(image["prompt"].split())[:_PROMPT_CHARACTERS]
    return (
        _cell(str(image["row_key"] or image["row_number"])),
        _cell(prompt),
        str(image["seed"]),
        image["sampler"],
        str(image["steps"]),
        f"{image['guidance_scale']:g}",
        f"{image['width']}x{image['height']}",
        _cell(image["model"]),
    )


def _table(header: tuple[str, ...], rows: Any) -> list[str]:
    lines = [header, ("---",) * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{_cell(name)} × {count:,}" for name, count in sorted(counts.items()))


def _best(selection: Mapping[str, Any]) -> str:
    return f"{selection['best']} by {_cell(selection['by'])}" if selection["best"] else "all"


def _pictures(form: Mapping[str, Any]) -> str:
    if form["size"] is None and form["format"] is None and form["watermark"] is None:
        return "as they were rendered"
    encoded = "" if form["format"] is None else f" as {form['format']}"
    size = "" if form["size"] is None else f", at most {form['size']} pixels a side"
    return f"re-encoded{encoded}{size}"


def _code(text: str | None) -> str:
    """A text as code in a cell of a table: a bar would end the cell also there."""
    if not text:
        return "none"
    fence = "``" if "`" in text else "`"
    return f"{fence}{' '.join(text.split()).replace('|', '&#124;')}{fence}"


def _cell(text: str) -> str:
    """A text in a cell of a table: what would end the cell, or be markup, stands as itself."""
    return "".join(f"\\{c}" if c in "\\|`*_<>[]" else c for c in " ".join(text.split()))
