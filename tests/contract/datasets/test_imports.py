"""An exported set becomes jobs of another database, once, with the same records and files."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from imagemill.db.database import Database
from imagemill.db.errors import UsageError
from imagemill.db.queries.pictures.dataset import stream_images
from imagemill.db.queries.pictures.originals import find_originals
from imagemill.db.settings import Settings
from imagemill.db.states import ImageState, JobState
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.tables import Job
from imagemill.scheduler_jobs import imports
from imagemill.scheduler_jobs.exports.export import ExportOptions
from imagemill.scheduler_jobs.exports.exported_set import export_folder
from imagemill.scheduler_jobs.exports.pictures import PictureForm
from imagemill.scheduler_jobs.exports.run import run_export
from imagemill.scheduler_jobs.exports.selection import Selection, read_splits
from imagemill.scheduler_jobs.exports.target import FolderTarget, open_target
from imagemill.scheduler_jobs.imports import import_export
from tests.contract.pictures.test_comparison import picture, render, rows
from tests.helpers.mill import Mill
from tests.helpers.template import copy_of_template

LAYOUTS = ("parquet", "imagefolder", "webdataset")
OTHERS = {"image_id", "job_id", "row_number", "composition", "verbatim", "extras"}
"""What an import gives anew."""


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Mill]:
    database = Database(f"sqlite:///{copy_of_template(tmp_path / 'source.sqlite3')}")
    yield Mill(database)
    database.close()


@pytest.fixture
def exported(source: Mill, tmp_path: Path):
    """Two jobs, and a function that exports them."""
    store = FolderStorage(tmp_path / "from")
    jobs = [source.load("first", rows("a", "b"), samples=2), source.load("second", rows("c"))]
    render(source, store, {"a": picture(1), "b": picture(2), "c": picture(3)})

    def export(layout: str, **options) -> Path:
        place = tmp_path / f"set-{layout}"
        splits = options.pop("splits", ())
        run_export(
            source.database,
            store,
            FolderTarget(place),
            export_format=layout,
            selection=Selection(jobs=jobs, splits=splits),
            options=ExportOptions(**{"form": PictureForm(), **options}),
            progress=lambda done, total: None,
        )
        return place

    return export


@pytest.fixture
def store(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "to")


def told(database: Database) -> list[dict]:
    """Every image, without what an import gives anew."""
    found = []
    with database.reading() as session:
        for job in session.scalars(select(Job.id).order_by(Job.id)).all():
            found += stream_images(session, job, states=(ImageState.DONE,))
    found = [{k: v for k, v in image.items() if k not in OTHERS} for image in found]
    return sorted(found, key=lambda image: (image["request_key"], image["sample_index"]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_is_found_again(mill: Mill, source, exported, store, layout: str) -> None:
    done = import_export(mill.database, store, exported(layout), labels={"from": "a"})
    assert [(job.job_name, job.images, job.files) for job in done] == [
        ("first", 4, 4),
        ("second", 1, 1),
    ]
    assert told(mill.database) == told(source.database)
    for job in done:
        assert mill.job(job.job_id).state == JobState.FINISHED
        for image in mill.images(job.job_id):
            with mill.database.reading() as session:
                [original] = find_originals(session, [image.id])
            body = store.get(original.object_key)
            assert hashlib.sha256(body).hexdigest() == original.sha256
    again = import_export(mill.database, store, exported(layout), labels={})
    assert [(job.job_id, job.created) for job in again] == [(j.job_id, False) for j in done]


def test_a_set_in_parts_is_taken_whole(mill: Mill, source, exported, store) -> None:
    folder = exported("parquet", splits=read_splits("train=0.5,test=0.5"))
    import_export(mill.database, store, folder, labels={})
    assert told(mill.database) == told(source.database)


def test_what_is_here_already_is_used(mill: Mill, exported, store) -> None:
    mill.load("own", rows("a"))
    render(mill, store, {"a": picture(7)})
    [first, _] = import_export(mill.database, store, exported("parquet"), labels={})
    assert (first.images, first.files) == (4, 3)


class Failing(FolderStorage):
    """A store that fails after so many files."""

    left = 0

    def put(self, key: str, body: bytes, *, media_type: str) -> bool:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().put(key, body, media_type=media_type)


def test_interrupted_it_goes_on(mill: Mill, source, exported, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(imports, "ROWS_A_STEP", 1)
    folder, store = exported("webdataset"), Failing(tmp_path / "to")
    for _ in range(20):
        store.left = 2
        try:
            import_export(mill.database, store, folder, labels={})
        except KeyboardInterrupt:
            assert mill.audit() == []
        else:
            break
    assert told(mill.database) == told(source.database)


def refused(mill: Mill, store: FolderStorage, folder: Path, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        import_export(mill.database, store, folder, labels={})
    with mill.database.reading() as session:
        assert session.scalars(select(Job.id)).all() == []


def test_what_does_not_carry_enough_is_refused_in_one_line(mill, exported, store, tmp_path) -> None:
    refused(mill, store, tmp_path, "holds no export")
    refused(mill, store, exported("coco"), "layout coco does not carry everything")
    small = exported("imagefolder", form=PictureForm(size=16))
    refused(mill, store, small, "encoded anew")
    folder = exported("parquet")
    record = folder / "imagemill_export.json"
    whole = record.read_text()
    record.write_text(json.dumps(json.loads(whole) | {"complete": False}))
    refused(mill, store, folder, "not complete")
    record.write_text(whole)
    [table] = sorted(folder.glob("data/*.parquet"))
    kept = pq.read_table(table)
    pq.write_table(kept.drop_columns(["request_key", "seconds"]), table)
    refused(mill, store, folder, "lacks the columns request_key, seconds")
    changed = kept.set_column(
        kept.schema.get_field_index("steps"), "steps", [[21] * kept.num_rows]
    ).cast(kept.schema)
    pq.write_table(changed, table)
    refused(mill, store, folder, "not those of its request key")


def test_a_damaged_file_and_one_that_leads_out_are_refused(mill, exported, store, tmp_path) -> None:
    folder = exported("imagefolder")
    shutil.copytree(folder, tmp_path / "copy")
    first = sorted(folder.glob("train/*.png"))[0]
    first.write_bytes(first.read_bytes()[:-1])
    refused(mill, store, folder, "damaged")
    table = tmp_path / "copy" / "train" / "metadata.parquet"
    kept = pq.read_table(table)
    names = ["../../source.sqlite3"] * kept.num_rows
    pq.write_table(kept.set_column(0, "file_name", [names]), table)
    refused(mill, store, tmp_path / "copy", "there is no picture")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_table_that_is_missing_or_cut_is_refused(mill, exported, store, layout: str) -> None:
    folder = exported(layout)
    table = sorted(folder.rglob("*.parquet"))[0]
    whole = table.read_bytes()
    table.write_bytes(whole[:-1])
    refused(mill, store, folder, f"{table.name}: can't be read")
    table.unlink()
    refused(mill, store, folder, "have 0 images, and its record says 5")


@pytest.mark.parametrize(
    ("layout", "column", "says"),
    [
        ("imagefolder", "file_name", "there is no picture None"),
        ("parquet", "image", "has no bytes"),
        ("webdataset", "key", "has no picture None"),
    ],
)
def test_a_layout_without_its_pictures_is_refused(
    mill, exported, store, layout: str, column: str, says: str
) -> None:
    folder = exported(layout)
    table = sorted(folder.rglob("*.parquet"))[0]
    kept = pq.read_table(table)
    place = kept.schema.get_field_index(column)
    pq.write_table(kept.set_column(place, column, pa.nulls(kept.num_rows)), table)
    refused(mill, store, folder, says)
    pq.write_table(kept.drop_columns([column]), table)
    refused(mill, store, folder, f"lacks the columns {column}")


def test_a_record_of_nothing_but_brackets_is_refused(mill, exported, store) -> None:
    folder = exported("parquet")
    (folder / "imagemill_export.json").write_text("[" * 100_000)
    refused(mill, store, folder, "can't be read")


def test_a_step_that_is_no_number_is_refused(mill, exported, store) -> None:
    folder = exported("imagefolder")
    table = folder / "train" / "metadata.parquet"
    kept = pq.read_table(table)
    steps = pa.array([float("nan")] * kept.num_rows)
    pq.write_table(kept.set_column(kept.schema.get_field_index("steps"), "steps", steps), table)
    refused(mill, store, folder, "not those of its request key")


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("sample_index", None, "sample_index: None; allowed: a whole number from 0"),
        ("sample_index", -1, "sample_index: -1; allowed: a whole number from 0"),
        ("row_number", -3, "row_number: -3; allowed: a whole number from 1"),
        ("row_number", 1.5, "row_number: 1.5; allowed"),
        ("job_id", None, "of job None: job_id: None; allowed"),
        ("job_name", "", "job_name: ''; allowed: a text of 1 to 200"),
        ("row_key", 7, "row_key: 7; allowed: a text, or none"),
        ("seconds", float("nan"), "seconds: nan; allowed: a number from 0"),
        ("seconds", -1.0, "seconds: -1.0; allowed"),
        ("outcome", "fine", "outcome: 'fine'; allowed: one of ok"),
        ("created_at", None, "created_at: None; allowed: a time"),
        ("pixels_sha256", None, "pixels_sha256: None; allowed: 64 hex digits"),
        ("environment", "mine", "environment: 'mine'; allowed: 64 hex digits"),
    ],
)
def test_a_record_with_a_value_that_is_none_is_refused(
    mill, exported, store, column: str, value: object, says: str
) -> None:
    folder = exported("imagefolder")
    table = folder / "train" / "metadata.parquet"
    kept = pq.read_table(table)
    place = kept.schema.get_field_index(column)
    last = [*kept[column].to_pylist()[:-1], value]
    values = last if value is None else [value] * kept.num_rows
    pq.write_table(kept.set_column(place, column, pa.array(values)), table)
    refused(mill, store, folder, re.escape(says))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_set_in_a_bucket_is_imported_as_from_a_folder(
    mill: Mill, store: FolderStorage, exported, layout: str, s3_storage_url: str, s3_server
) -> None:
    settings = Settings.load(s3_endpoint_url=s3_server.endpoint)
    place = f"{s3_storage_url}/set"
    target, folder = open_target(place, settings), exported(layout)
    for path in folder.rglob("*"):
        if path.is_file():
            target.write(str(path.relative_to(folder)), path.read_bytes())
    with export_folder(place, settings) as copy:
        done = import_export(mill.database, store, copy, labels={})
        assert import_export(mill.database, store, folder, labels={})[0].created is False
    assert [job.job_name for job in done] == ["first", "second"]
    assert not copy.exists()


def test_a_place_without_an_export_is_named_as_it_was_given(s3_storage_url: str, s3_server) -> None:
    settings = Settings.load(s3_endpoint_url=s3_server.endpoint)
    said = f"{s3_storage_url}/none: holds no export"
    with (
        pytest.raises(UsageError, match=re.escape(said)),
        export_folder(f"{s3_storage_url}/none", settings),
    ):
        pytest.fail("it is no export")
    with (
        pytest.raises(UsageError, match=r"^EXPORT 'ftp://a/b': expected a folder"),
        export_folder("ftp://a/b", settings),
    ):
        pytest.fail("it is no export")
