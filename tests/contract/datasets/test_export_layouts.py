"""The layouts of exports, read as those read them for whom they are."""

import csv
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.exports.selection import read_splits
from tests.helpers.dataset import PNG_ROWS, finished_job
from tests.helpers.exports import export
from tests.helpers.mill import Mill


@pytest.fixture
def job(sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path) -> int:
    return finished_job(sqlite_mill, folder_storage, tmp_path, samples=4)


def test_webdataset_has_img2datasets_shape(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path
) -> None:
    rows = [*PNG_ROWS, {"prompt": "final refused", "id": "p4"}]
    job = finished_job(sqlite_mill, folder_storage, tmp_path, rows)
    out = tmp_path / "out"
    result = export(sqlite_mill, folder_storage, out, "webdataset", [job], shard_size=4)
    assert (result.images, result.failures) == (6, 2)
    assert sorted(path.name for path in out.iterdir() if path.name[0].isdigit()) == [
        *("00000.parquet", "00000.tar", "00000_stats.json"),
        *("00001.parquet", "00001.tar", "00001_stats.json"),
    ]
    with tarfile.open(out / "00001.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert list(members)[:3] == ["000010000.png", "000010000.txt", "000010000.json"]
    again = io.BytesIO()
    with tarfile.open(fileobj=again, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    assert (out / "00001.tar").read_bytes() == again.getvalue()
    assert members["000010000.txt"].decode() == PNG_ROWS[2]["prompt"]
    document = json.loads(members["000010000.json"])
    assert document["sha256"] == hashlib.sha256(members["000010000.png"]).hexdigest()
    assert (document["row_key"], document["rating"], document["steps"]) == ("p3", 4.5, 2)
    table = pq.read_table(out / "00001.parquet").to_pylist()
    assert [row["status"] for row in table] == ["success"] * 2 + ["failed_to_render"] * 2
    assert [row["key"] for row in table] == [f"00001{n:04}" for n in range(4)]
    assert table[2]["error_code"] == "input_image"
    assert table[2]["sha256"] is None
    stats = json.loads((out / "00001_stats.json").read_text())
    assert (stats["count"], stats["successes"]) == (4, 2)
    assert stats["status_dict"] == {"input_image": 2, "success": 2}


def test_webdataset_is_read_by_webdataset(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path, job: int
) -> None:
    webdataset = pytest.importorskip("webdataset")
    export(sqlite_mill, folder_storage, tmp_path / "out", "webdataset", [job], shard_size=5)
    shards = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [sample["json"]["row_key"] for sample in samples] == [
        key for key in ("p1", "p2", "p3") for _ in range(4)
    ]
    assert {sample["png"].size for sample in samples} == {(64, 64)}


@pytest.mark.parametrize("export_format", ["imagefolder", "parquet"])
def test_hugging_face_datasets_reads_it_offline(
    sqlite_mill: Mill,
    folder_storage: FolderStorage,
    tmp_path: Path,
    job: int,
    export_format: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "out"
    export(
        sqlite_mill,
        folder_storage,
        out,
        export_format,
        [job],
        splits=read_splits("train=0.5,test=0.5"),
    )
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    rows = [row for split in loaded.values() for row in split]
    assert len(rows) == 12
    assert {row["image"].size for row in rows} == {(64, 64)}
    assert {row["text"] for row in rows} == {row["prompt"] for row in PNG_ROWS}
    for split in loaded.values():
        assert len(split) % 4 == 0  # all samples of a prompt are on one side


def test_flat_defuses_formulas_and_only_those(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path
) -> None:
    rows = [{"prompt": "-1 of them", "id": "a", "note": "=1+1", "n": -5}]
    job = finished_job(sqlite_mill, folder_storage, tmp_path, rows, samples=1)
    export(sqlite_mill, folder_storage, tmp_path / "out", "flat", [job])
    [cells] = csv.DictReader((tmp_path / "out/metadata.csv").open(newline=""))
    assert (cells["prompt"], cells["note"], cells["n"]) == ("'-1 of them", "'=1+1", "-5")
    export(sqlite_mill, folder_storage, tmp_path / "raw", "flat", [job], formulas=True)
    [cells] = csv.DictReader((tmp_path / "raw/metadata.csv").open(newline=""))
    assert (cells["prompt"], cells["note"]) == ("-1 of them", "=1+1")
    [line] = (tmp_path / "out/metadata.jsonl").read_text().splitlines()
    assert json.loads(line)["note"] == "=1+1"


def test_benchmarks_layouts(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path, job: int
) -> None:
    """GenEval's, T2I-CompBench's, DPG-Bench's and COCO's evaluators look just so."""
    for each in ("geneval", "t2i-compbench", "dpg-bench", "coco"):
        export(sqlite_mill, folder_storage, tmp_path / each, each, [job])
    folders = sorted(path.name for path in (tmp_path / "geneval").iterdir() if path.is_dir())
    assert folders == ["00000", "00001", "00002"]
    for number, folder in enumerate(folders):  # evaluation/evaluate_images.py
        with (tmp_path / "geneval" / folder / "metadata.jsonl").open() as file:
            assert json.load(file) == PNG_ROWS[number]
        samples = sorted((tmp_path / "geneval" / folder / "samples").iterdir())
        assert [path.name for path in samples] == [f"{n:05}.png" for n in range(4)]
    names = sorted(path.name for path in (tmp_path / "t2i-compbench/samples").iterdir())
    assert {name.split("_")[0] for name in names} == {row["prompt"] for row in PNG_ROWS}
    assert sorted(int(name.split("_")[-1][:6]) for name in names) == list(range(12))
    grid = Image.open(tmp_path / "dpg-bench/p2.png")
    assert grid.size == (128, 128)
    first = sqlite_mill.images(job)[4]
    with sqlite_mill.database.reading() as session:
        stored = session.get_one(type(first), first.id)
        key = session.execute(
            type(stored)
            .__table__.metadata.tables["objects"]
            .select()  # type: ignore[attr-defined]
            .with_only_columns(type(stored).__table__.metadata.tables["objects"].c.object_key)  # type: ignore[attr-defined]
            .where(type(stored).__table__.metadata.tables["objects"].c.id == stored.object_id)  # type: ignore[attr-defined]
        ).scalar_one()
    corner = Image.open(io.BytesIO(folder_storage.get(key))).convert("RGB")
    assert grid.crop((0, 0, 64, 64)).tobytes() == corner.tobytes()
    captions = json.loads((tmp_path / "coco/annotations/captions.json").read_text())
    assert len(captions["images"]) == len(captions["annotations"]) == 12
    for entry, caption in zip(captions["images"], captions["annotations"], strict=True):
        assert entry["id"] == caption["image_id"]
        assert (tmp_path / "coco/images" / entry["file_name"]).is_file()


def test_coco_keeps_the_numbers_of_the_manifest(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path
) -> None:
    rows = [{"prompt": "a dog", "id": 42}, {"prompt": "a cat", "id": "179765"}]
    job = finished_job(sqlite_mill, folder_storage, tmp_path, rows, samples=1)
    export(sqlite_mill, folder_storage, tmp_path / "out", "coco", [job])
    assert (tmp_path / "out/images/000000179765.png").is_file()


def test_diffusiondb_has_its_columns(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path, job: int
) -> None:
    export(sqlite_mill, folder_storage, tmp_path / "out", "diffusiondb", [job])
    table = pq.read_table(tmp_path / "out/metadata.parquet")
    assert table.num_columns == 13
    assert str(table.schema.field("seed").type) == "uint32"
    rows = table.to_pylist()
    assert len(rows) == 12
    part = json.loads((tmp_path / "out/images/part-000001/part-000001.json").read_text())
    for row in rows:
        assert (tmp_path / "out/images/part-000001" / row["image_name"]).is_file()
        assert part[row["image_name"]]["p"] == row["prompt"]
        assert row["sampler"] == 1
