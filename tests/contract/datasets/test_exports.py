"""Exports on both databases, from and to folders and buckets: layouts, bytes, and interruptions."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagemill.db.errors import RecordError, StorageError, UsageError
from imagemill.db.provenance import SOURCE_TYPE
from imagemill.db.queries.pictures.exports import list_exports
from imagemill.db.settings import Settings
from imagemill.db.states import Outcome
from imagemill.db.storage import Storage
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.exports.formats import FORMATS
from imagemill.scheduler_jobs.exports.pictures import PictureForm
from imagemill.scheduler_jobs.exports.selection import read_splits
from imagemill.scheduler_jobs.exports.target import FolderTarget, open_target
from imagemill.worker.files.encoder import read_record
from tests.helpers.dataset import PNG_ROWS, finished_job
from tests.helpers.exports import export
from tests.helpers.mill import Mill

FOUR = tuple({**row, "id": f"q{n}"} for n, row in enumerate(PNG_ROWS, 1))


@pytest.fixture
def job(sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path) -> int:
    return finished_job(sqlite_mill, folder_storage, tmp_path, samples=4)


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("export_format", FORMATS)
def test_an_export_has_equal_bytes_whenever_and_however_often_it_is_interrupted(
    sqlite_mill: Mill,
    folder_storage: FolderStorage,
    tmp_path: Path,
    job: int,
    export_format: str,
) -> None:
    small = {"shard_size": 5} if FORMATS[export_format].shard_size else {}
    whole = export(sqlite_mill, folder_storage, tmp_path / "whole", export_format, [job], **small)

    class Interrupted(Exception):
        pass

    def stop_after(most: int) -> Callable[[int, int], None]:
        def progress(done: int, _total: int) -> None:
            if done >= most:
                raise Interrupted

        return progress

    for most in (1, 3, 6, 8, 12):
        with pytest.raises(Interrupted):
            export(
                sqlite_mill,
                folder_storage,
                tmp_path / "parts",
                export_format,
                [job],
                progress=stop_after(most),
                **small,
            )
        assert not list((tmp_path / "parts").rglob(".unfinished*"))
    again = export(sqlite_mill, folder_storage, tmp_path / "parts", export_format, [job], **small)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert again.digest == whole.digest
    repeated = export(
        sqlite_mill, folder_storage, tmp_path / "parts", export_format, [job], **small
    )
    assert repeated.repeated
    assert repeated.images == 12


def test_both_databases_and_both_stores_give_the_same_pictures(
    mill: Mill, storage: Storage, tmp_path: Path, s3_storage_url: str, s3_server: Any
) -> None:
    """To a folder and to a bucket; the bucket holds what the folder holds."""
    job = finished_job(mill, storage, tmp_path)
    settings = Settings.load(s3_endpoint_url=s3_server.endpoint)
    bucket = open_target(f"{s3_storage_url}/export", settings)
    for target in (FolderTarget(tmp_path / "export"), bucket):
        result = export(mill, storage, target, "webdataset", [job], shard_size=4)
        assert (result.images, result.repeated) == (6, False)
    local = FolderTarget(tmp_path / "export")
    assert local.names() == bucket.names() - {""}
    assert {name: local.read(name) for name in local.names()} == {
        name: bucket.read(name) for name in local.names()
    }
    assert export(mill, storage, bucket, "webdataset", [job], shard_size=4).repeated
    with mill.database.reading() as session:
        listed = list_exports(session, limit=10)
    assert [(each.format, each.images, each.finished_at is not None) for each in listed] == [
        ("webdataset", 6, True)
    ] * 2
    assert len({each.digest for each in listed}) == 1


def test_names_come_from_a_template_over_every_column_and_never_collide(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path, job: int
) -> None:
    template = "{row_key}/{sample_index:03}-{seed}-{mood}.{ext}"
    export(sqlite_mill, folder_storage, tmp_path / "out", "kohya", [job], name=template)
    seed = sqlite_mill.images(job)[0].seed
    assert (tmp_path / f"out/p1/000-{seed}-calm.png").is_file()
    assert (tmp_path / f"out/p1/000-{seed}-calm.txt").read_text() == "a red circle"
    with pytest.raises(UsageError, match="would both be called"):
        export(sqlite_mill, folder_storage, tmp_path / "bad", "kohya", [job], name="{row_key}")
    with pytest.raises(UsageError, match="nothing is called 'moood'"):
        export(
            sqlite_mill,
            folder_storage,
            tmp_path / "bad",
            "kohya",
            [job],
            name="{image_id}{moood}",
        )
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_copies_say_that_a_machine_made_them_and_carry_no_record(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path, image_format: str
) -> None:
    rows = [{"prompt": "a red circle", "format": "jpeg"}, {"prompt": "a blue star"}]
    job = finished_job(sqlite_mill, folder_storage, tmp_path, rows, samples=1)
    form = PictureForm(size=32, format=image_format)
    export(sqlite_mill, folder_storage, tmp_path / "out", "kohya", [job], form=form)
    copies = [
        path for path in (tmp_path / "out").iterdir() if path.suffix in (".png", ".jpg", ".webp")
    ]
    assert len(copies) == 2
    for path in copies:
        body = path.read_bytes()
        assert SOURCE_TYPE.encode() in body
        with pytest.raises(RecordError, match="no imagemill record"):
            read_record(body)


def test_pictures_are_re_encoded_and_keep_how_they_were_made(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path, job: int
) -> None:
    form = PictureForm(size=32, format="jpeg", quality=80)
    export(sqlite_mill, folder_storage, tmp_path / "out", "flat", [job], form=form)
    lines = (tmp_path / "out/metadata.jsonl").read_text().splitlines()
    for document in map(json.loads, lines):
        body = (tmp_path / "out" / document["file_name"]).read_bytes()
        picture = Image.open(io.BytesIO(body))
        assert (picture.format, picture.size) == ("JPEG", (32, 32))
        assert (document["width"], document["format"]) == (32, "jpeg")
        assert document["sha256"] == hashlib.sha256(body).hexdigest()
        assert document["source_sha256"] != document["sha256"]
        comment = picture.getexif().get_ifd(0x8769)[0x9286]
        assert document["prompt"].split()[1] in comment[8:].decode("utf-16-be")


def test_a_png_of_a_jpeg_or_webp_keeps_the_text_that_says_how_it_was_made(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path
) -> None:
    rows = [{"prompt": "a red circle 日本", "format": name} for name in ("jpeg", "webp", "png")]
    job = finished_job(sqlite_mill, folder_storage, tmp_path, rows, samples=1)
    form = PictureForm(size=32, format="png")
    export(sqlite_mill, folder_storage, tmp_path / "out", "kohya", [job], form=form)
    texts = []
    for path in sorted((tmp_path / "out").glob("*.png")):
        with Image.open(path) as picture:
            picture.load()
            texts.append(picture.info["parameters"])
    assert len(texts) == 3
    assert all(text.startswith("a red circle 日本\nSteps: 2, ") for text in texts)


@pytest.mark.parametrize(
    ("fields", "keys"),
    [
        ({"where": "rating > 3"}, ["p2", "p3"]),
        ({"where": "mood = 'calm' or row_key = 'p3'"}, ["p1", "p3"]),
        ({"where": "sample_index = 1", "best": 1, "by": "seed"}, ["p1", "p2", "p3"]),
    ],
)
def test_a_selection_takes_what_it_says(
    sqlite_mill: Mill,
    folder_storage: FolderStorage,
    tmp_path: Path,
    job: int,
    fields: dict[str, Any],
    keys: list[str],
) -> None:
    export(sqlite_mill, folder_storage, tmp_path / "out", "flat", [job], **fields)
    lines = (tmp_path / "out/metadata.jsonl").read_text().splitlines()
    found = [json.loads(line)["row_key"] for line in lines]
    assert list(dict.fromkeys(found)) == keys


def test_the_best_of_each_row_goes_by_a_column(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path, job: int
) -> None:
    export(sqlite_mill, folder_storage, tmp_path / "out", "flat", [job], best=1, by="seed")
    lines = (tmp_path / "out/metadata.jsonl").read_text().splitlines()
    best: dict[str, int] = {}
    for image in sqlite_mill.images(job):
        best[image.prompt] = max(best.get(image.prompt, 0), image.seed)
    assert [json.loads(line)["seed"] for line in lines] == list(best.values())


@pytest.mark.parametrize(
    ("export_format", "fields", "said"),
    [
        ("webdataset", {"name": "{seed}"}, "--name: the format webdataset has no use"),
        ("kohya", {"shard_size": 5}, "--shard-size"),
        ("kohya", {"formulas": True}, "--formulas"),
        ("geneval", {"splits": read_splits("a=0.5,b=0.5")}, "--split"),
        ("geneval", {"form": PictureForm(format="jpeg")}, "--format-images"),
        ("flat", {"where": "moood = 1"}, "nothing is called 'moood'"),
        ("flat", {"name": "{moood}"}, "--name: nothing is called 'moood'"),
        ("flat", {"where": "steps = 1"}, "no image is left"),
        ("flat", {"outcomes": [Outcome.NAN]}, "no image is left"),
        ("flat", {"where": "mood = 'a mood of no image'"}, "no image is left"),
        ("dpg-bench", {"where": "sample_index < 3"}, "has 3 pictures"),
    ],
)
def test_what_a_format_cant_do_is_refused_before_anything_is_written(
    sqlite_mill: Mill,
    folder_storage: FolderStorage,
    tmp_path: Path,
    job: int,
    export_format: str,
    fields: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(UsageError, match=said):
        export(sqlite_mill, folder_storage, tmp_path / "out", export_format, [job], **fields)
    assert not (tmp_path / "out").exists()


def test_an_export_never_mixes_with_other_files(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path, job: int
) -> None:
    export(sqlite_mill, folder_storage, tmp_path / "out", "flat", [job])
    with pytest.raises(UsageError, match="holds another export"):
        export(sqlite_mill, folder_storage, tmp_path / "out", "flat", [job], where="steps = 2")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        export(sqlite_mill, folder_storage, tmp_path / "mine", "flat", [job])
    assert files(tmp_path / "mine").keys() == {"notes.txt"}


def test_a_place_that_is_no_folder_is_a_usage_error_and_stays(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path, job: int
) -> None:
    mine = tmp_path / "notes.txt"
    mine.write_text("mine")
    for place in (mine, mine / "below"):
        with pytest.raises(UsageError, match=r"--to .*notes\.txt.*: Not a directory"):
            export(sqlite_mill, folder_storage, place, "flat", [job])
    assert mine.read_text() == "mine"


def test_a_damaged_file_stops_the_export_and_is_named(
    sqlite_mill: Mill, folder_storage: FolderStorage, tmp_path: Path, job: int
) -> None:
    victim = next(folder_storage.list())
    (Path(folder_storage.uri) / victim.key).write_bytes(b"damaged")
    with pytest.raises(StorageError, match=victim.key):
        export(sqlite_mill, folder_storage, tmp_path / "out", "flat", [job])


@pytest.mark.parametrize(
    "text", ["", "a", "a=2", "a=0.5", "a=0.5,a=0.5", "a-b=1", "a=x,b=1", "a=nan,b=1"]
)
def test_a_split_that_makes_no_whole_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--split"):
        read_splits(text)


def test_no_export_is_written_into_the_store(
    sqlite_mill: Mill, folder_storage: FolderStorage, job: int
) -> None:
    place = Path(folder_storage.uri) / "set"
    with pytest.raises(UsageError, match="inside the store of pictures"):
        export(sqlite_mill, folder_storage, place, "flat", [job])
    assert not place.exists()
