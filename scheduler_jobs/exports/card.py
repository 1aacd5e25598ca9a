"""The data-set card: a README.md that the Hugging Face Hub reads, in every export.

It says what was asked for, what rendered it, what was left out and why, and how to make it again.
Nothing in it depends on when the export ran, so two exports of one digest have one card.
Source: https://huggingface.co/docs/hub/datasets-cards
"""

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import Any

import yaml

from imagemill.scheduler_jobs.exports.export import Export, Plan
from imagemill.scheduler_jobs.exports.selection import ExportImage

CARD = "README.md"
_SAMPLES = 5
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
"""The Hub's words for how large a set is."""

_PROMPT_CHARACTERS = 80


def write_card(export: Export, document: Mapping[str, Any]) -> None:
    """Write the card of an export whose files are all there."""
    samples = list(islice((image for image in export.images() if image.done), _SAMPLES))
    text = "\n".join(
        (
            _header(export, document),
            _body(export.plan, document),
            _sample_table(samples),
        )
    )
    export.target.write(CARD, text.encode("utf-8", "backslashreplace"))


def _header(export: Export, document: Mapping[str, Any]) -> str:
    """The YAML that the Hub reads; where its viewer finds the pictures, for its own layouts."""
    images = document["images"]
    header: dict[str, Any] = {
        "pretty_name": f"{images:,} images by imagemill",
        "task_categories": ["text-to-image"],
        "tags": ["synthetic", "imagemill"],
        "size_categories": [next((w for most, w in _SIZES if images < most), "n>10M")],
    }
    patterns = {
        "parquet": "data/{split}-*",
        "webdataset": "{folder}*.tar",
        "imagefolder": "{split}/**",
    }
    if document["format"] in patterns:
        files = [
            {
                "split": name or "train",
                "path": patterns[document["format"]].format(
                    split=name or "train", folder=f"{name}/" if name else ""
                ),
            }
            for name in export.split_names
        ]
        header["configs"] = [{"config_name": "default", "data_files": files}]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def _body(plan: Plan, document: Mapping[str, Any]) -> str:
    selection = document["selection"]
    jobs = ", ".join(map(str, selection["jobs"]))
    rendered = Counter({f"{name} ({digest[:12]})": n for (name, digest), n in plan.models.items()})
    lines = [
        f"# {document['images']:,} images by imagemill",
        "",
        "These pictures were made by a machine: text-to-image models rendered them from prompts.",
        "",
        "| | |",
        "| --- | --- |",
        f"| images | {document['images']:,} |",
        f"| layout | {document['format']} |",
        f"| jobs | {jobs} |",
        f"| outcomes taken | {', '.join(selection['outcomes'])} |",
        f"| condition | {_code(selection['where'])} |",
        f"| best of each row | {_best(selection)} |",
        f"| models (digest of the weights) | {_counted(rendered)} |",
        f"| samplers | {_counted(plan.samplers)} |",
        f"| splits | {_counted(plan.splits) or 'none'} |",
        f"| not rendered, by reason | {_counted(plan.failure_codes) or 'none'} |",
        f"| digest | `{document['digest']}` |",
        "",
        "## How to make it again",
        "",
        "Every image has its prompt, seed, sampler, steps, guidance, size and the digest of the "
        "model's weights beside it. With the database, `imagemill reproduce IMAGE_ID` renders an "
        "image again and compares the pixels. The same selection exported again gives the same "
        "bytes; `imagemill_export.json` holds it.",
        "",
    ]
    return "\n".join(lines)


def _sample_table(samples: list[ExportImage]) -> str:
    lines = [
        "## Samples",
        "",
        "| row | prompt | seed | sampler | steps | guidance |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for image in samples:
        prompt = " ".join(image["prompt"].split())[:_PROMPT_CHARACTERS]
        lines.append(
            f"| {_cell(str(image['row_key'] or image['row_number']))} | {_cell(prompt)} "
            f"| {image['seed']} | {image['sampler']} | {image['steps']} "
            f"| {image['guidance_scale']:g} |"
        )
    return "\n".join([*lines, ""])


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{_cell(name)} × {count:,}" for name, count in sorted(counts.items()))


def _best(selection: Mapping[str, Any]) -> str:
    return f"{selection['best']} by {_cell(selection['by'])}" if selection["best"] else "all"


def _code(text: str | None) -> str:
    return f"`{text.replace('|', '&#124;')}`" if text else "none"


def _cell(text: str) -> str:
    """A text in a cell of a table: what would end the cell, or be markup, stands as itself."""
    return "".join(f"\\{c}" if c in "\\|`*_<>[]" else c for c in text)
