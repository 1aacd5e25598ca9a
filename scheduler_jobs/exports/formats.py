"""The formats of exports: what each is for, which options it takes, and who writes it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from imagemill.scheduler_jobs.exports.contents import Contents
from imagemill.scheduler_jobs.exports.export import Export, ExportPlan
from imagemill.scheduler_jobs.exports.layouts import (
    coco,
    diffusiondb,
    dpg_bench,
    flat,
    geneval,
    imagefolder,
    kohya,
    parquet,
    t2i_compbench,
    webdataset,
)
from imagemill.scheduler_jobs.exports.selection import ExportImage


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A format: `write` writes an export, `checked` passes images and refuses what can't be held;
    `contents` describes its files.

    `name` is the template of its files' names, None where they are fixed; `shard_size` the images
    in a shard, None where there are none. `image_format` is the only one that its readers take.
    `splits` says whether it has a place for them, `failures` whether rows without a picture stay,
    `marks` whether its pictures are whole ones, that a watermark and a signature stay in.
    """

    title: str
    write: Callable[[Export], None]
    contents: Callable[[ExportPlan], Contents]
    checked: Callable[[Iterator[ExportImage]], Iterator[ExportImage]] | None = None
    name: str | None = None
    shard_size: int | None = None
    image_format: str | None = None
    splits: bool = True
    failures: bool = False
    tables: bool = False
    marks: bool = True


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "webdataset": Format(
            title="tar shards with Parquet beside them, as img2dataset writes",
            write=webdataset.write,
            contents=webdataset.contents,
            shard_size=webdataset.SHARD_SIZE,
            failures=True,
        ),
        "imagefolder": Format(
            title="folders with metadata.parquet, for Hugging Face datasets",
            write=imagefolder.write,
            contents=imagefolder.contents,
            name=imagefolder.NAME,
        ),
        "parquet": Format(
            title="pictures inside Parquet files, as on the Hugging Face Hub",
            write=parquet.write,
            contents=parquet.contents,
            shard_size=parquet.SHARD_SIZE,
        ),
        "diffusiondb": Format(
            title="parts of 1,000 pictures and metadata.parquet, as DiffusionDB",
            write=diffusiondb.write,
            contents=diffusiondb.contents,
            checked=diffusiondb.checked,
            splits=False,
        ),
        "flat": Format(
            title="files by name, metadata.csv and metadata.jsonl",
            write=flat.write,
            contents=flat.contents,
            name=flat.NAME,
            tables=True,
        ),
        "geneval": Format(
            title="a folder a row, for GenEval's evaluator",
            write=geneval.write,
            contents=geneval.contents,
            checked=geneval.checked,
            image_format="png",
            splits=False,
        ),
        "t2i-compbench": Format(
            title="files named by prompt, for T2I-CompBench's evaluators",
            write=t2i_compbench.write,
            contents=t2i_compbench.contents,
            checked=t2i_compbench.checked,
            image_format="png",
            splits=False,
        ),
        "dpg-bench": Format(
            title="grids of four pictures, for DPG-Bench's evaluator",
            write=dpg_bench.write,
            contents=dpg_bench.contents,
            checked=dpg_bench.checked,
            marks=False,
            image_format="png",
            splits=False,
        ),
        "coco": Format(
            title="numbered pictures with a caption file, as COCO",
            write=coco.write,
            contents=coco.contents,
        ),
        "kohya": Format(
            title="a caption in a .txt beside each picture, for trainers",
            write=kohya.write,
            contents=kohya.contents,
            name=kohya.NAME,
        ),
    }
)
"""By the name that `--format` takes."""
