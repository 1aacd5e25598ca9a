"""What an export says of itself: its card, its Croissant metadata, and the list of its files."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from imagemill.db.database import Database
from imagemill.db.models.registry import Registry, load_registry
from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.exports.export import ExportOptions
from imagemill.scheduler_jobs.exports.formats import FORMATS
from imagemill.scheduler_jobs.exports.pictures import PictureForm
from imagemill.scheduler_jobs.exports.run import run_export
from imagemill.scheduler_jobs.exports.selection import Selection, read_splits
from imagemill.scheduler_jobs.exports.sums import SUMS, read_sums
from imagemill.scheduler_jobs.exports.target import FolderTarget
from tests.helpers.dataset import PNG_ROWS, finished_job
from tests.helpers.mill import Mill

ROWS = (
    *({**row, "a/b c": "d", "a b/c": n} for n, row in enumerate(PNG_ROWS)),
    {"prompt": "a | pipe", "id": "p4", "model": "shapes64"},
    {"prompt": "final refused", "id": "p5"},
)


@pytest.fixture
def mill(sqlite_database: Database) -> Mill:
    return Mill(sqlite_database)


@pytest.fixture
def job(mill: Mill, folder_storage: FolderStorage, tmp_path: Path) -> int:
    return finished_job(mill, folder_storage, tmp_path, ROWS, samples=4)


@pytest.fixture
def registry() -> Registry:
    return load_registry(Settings.load())


def export(
    mill: Mill, storage: FolderStorage, out: Path, export_format: str, job: int, **fields: Any
) -> dict[str, Any]:
    """Export a job into a folder; the export's record."""
    run_export(
        mill.database,
        storage,
        FolderTarget(out),
        export_format=export_format,
        selection=Selection(jobs=[job], **fields.pop("selection", {})),
        options=ExportOptions(form=fields.pop("form", PictureForm())),
        progress=lambda *_: None,
        **fields,
    )
    record: dict[str, Any] = json.loads((out / "imagemill_export.json").read_text())
    return record


def card_of(out: Path) -> tuple[dict[str, Any], str]:
    _, header, body = (out / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), body


@pytest.mark.parametrize("export_format", FORMATS)
def test_croissant_is_valid_and_its_records_are_read_offline(
    mill: Mill,
    folder_storage: FolderStorage,
    tmp_path: Path,
    job: int,
    registry: Registry,
    export_format: str,
) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    out = tmp_path / "out"
    record = export(mill, folder_storage, out, export_format, job, registry=registry)
    dataset = mlcroissant.Dataset(jsonld=str(out / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    read = {each.uuid: list(dataset.records(each.uuid)) for each in dataset.metadata.record_sets}
    if "images" in read:
        rows = 20 if export_format == "webdataset" else record["images"]
        assert len(read["images"]) == rows
        prompts = {row["prompt"] for row in ROWS}
        texts = {"imagefolder": "text", "coco": "caption"}
        column = f"images/{texts.get(export_format, 'prompt')}"
        found = {row[column].decode() for row in read["images"]}
        assert found == prompts - ({"final refused"} if rows == 16 else set())
    if "pictures" in read:
        files = 4 if export_format == "dpg-bench" else record["images"]
        assert len(read["pictures"]) == files
        for picture in read["pictures"]:
            path = picture["pictures/path"].decode()
            assert picture["pictures/image"].size == Image.open(out / path).size
    if export_format == "parquet":
        assert {row["images/image"].size for row in read["images"]} == {(64, 64)}
    assert read


def test_croissant_of_splits_and_of_jpegs_is_read_too(
    mill: Mill, folder_storage: FolderStorage, tmp_path: Path, job: int
) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    out = tmp_path / "out"
    export(
        mill,
        folder_storage,
        out,
        "imagefolder",
        job,
        selection={"splits": read_splits("train=0.5,test=0.5")},
        form=PictureForm(format="jpeg"),
    )
    dataset = mlcroissant.Dataset(jsonld=str(out / "croissant.json"))
    assert len(list(dataset.records("images"))) == 16
    assert {each["pictures/image"].size for each in dataset.records("pictures")} == {(64, 64)}


def test_the_card_says_what_was_asked_for_what_rendered_it_and_what_was_left_out(
    mill: Mill, folder_storage: FolderStorage, tmp_path: Path, job: int, registry: Registry
) -> None:
    out = tmp_path / "out"
    record = export(
        mill,
        folder_storage,
        out,
        "imagefolder",
        job,
        registry=registry,
        selection={"where": "row_key != 'p2'"},
    )
    header, body = card_of(out)
    assert header["license"] == "apache-2.0"
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "train/**"}]
    assert record["left_out"] == {"input_image": 4, "not selected": 4}
    [model] = record["models"]
    assert (model["name"], model["license"], model["images"]) == ("shapes64", "apache-2.0", 12)
    [asked] = record["jobs"]
    assert asked["manifest"] == "set.jsonl"
    for told in (
        "| input\\_image | 4 |",
        f"| shapes64 | `{model['weights_digest']}` | apache-2.0 | 12 |",
        f"| {job} set | set.jsonl | `{asked['manifest_sha256']}` |",
        "| rows | 3 |",
        "| sizes | 64x64 × 12 |",
        "`row_key != 'p2'`",
        "made by a machine",
        "imagemill reproduce",
    ):
        assert told in body
    samples = body.partition("## Samples")[2].strip().splitlines()[2:]
    assert len(samples) == 5
    assert not [line for line in samples if line.count(" | ") != 7]


def test_a_licence_that_is_not_known_is_not_claimed(
    mill: Mill, folder_storage: FolderStorage, tmp_path: Path, job: int
) -> None:
    export(mill, folder_storage, tmp_path / "out", "flat", job)
    header, body = card_of(tmp_path / "out")
    assert "license" not in header
    assert "| not known |" in body
    assert "license" not in json.loads((tmp_path / "out/croissant.json").read_text())


def test_every_file_is_listed_and_sha256sum_agrees(
    mill: Mill, folder_storage: FolderStorage, tmp_path: Path
) -> None:
    job = finished_job(
        mill, folder_storage, tmp_path, [{"prompt": "back\\slash"}], name="hostile", samples=1
    )
    out = tmp_path / "out"
    record = export(mill, folder_storage, out, "t2i-compbench", job)
    listed = read_sums((out / SUMS).read_bytes())
    there = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert listed.keys() == there - {SUMS, "imagemill_export.json"}
    assert "samples/back\\slash_000000.png" in listed
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=out, check=True)
    assert record["files"] == {
        "files": len(listed),
        "bytes": sum((out / name).stat().st_size for name in listed),
        "sha256": hashlib.sha256((out / SUMS).read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize("listed", [b"", b"abc", b"0" * 64 + b" name\n"])
def test_what_is_no_list_of_files_is_refused(listed: bytes) -> None:
    with pytest.raises(ValueError, match="no line"):
        read_sums(listed)
