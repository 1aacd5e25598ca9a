"""`import imagemill`: reading jobs and pictures from Python."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import imagemill
from imagemill.db.database import Database
from imagemill.db.errors import SchemaError, StorageError, UnknownJob, UsageError
from imagemill.db.storage import Storage
from imagemill.reader import Mill as Reader
from tests.helpers.dataset import finished_job
from tests.helpers.mill import Mill


def test_importing_it_is_light() -> None:
    code = "import sys, imagemill; print(sorted({'torch', 'sqlalchemy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_pictures_of_both_databases_and_stores(
    mill: Mill, storage: Storage, tmp_path: Path
) -> None:
    job = finished_job(mill, storage, tmp_path)
    reader = Reader(mill.database, storage)
    assert [found.id for found in reader.jobs()] == [job]
    images = list(reader.images(job))
    assert [(image["row_key"], image["sample_index"]) for image in images] == [
        (key, sample) for key in ("p1", "p2", "p3") for sample in (0, 1)
    ]
    assert images[0]["mood"] == "calm"
    assert images[0]["uri"] == storage.object_uri(images[0]["object_key"])
    assert images[0].picture().size == (64, 64)
    assert images[0].bytes().startswith(b"\x89PNG")
    assert len(list(reader.images(where="mood is null"))) == 2  # of images that have none
    for use in (list, lambda images: images.to_arrow()):
        with pytest.raises(UsageError, match="--where: nothing is called 'moood'; there are"):
            use(reader.images(where="moood = 'calm'"))
    chosen = reader.images("latest", where="rating > 3")
    assert {image["row_key"] for image in chosen} == {"p2", "p3"}
    assert len(list(chosen)) == len(list(chosen)) == 4
    frame = pd.DataFrame(chosen.rows())
    assert next(iter(frame["prompt"])) == "a blue square, =1+1"
    storage.delete(images[0]["object_key"])
    with pytest.raises(StorageError):
        images[0].bytes()


def test_a_folder_of_a_run_is_opened_by_its_name(tmp_path: Path, sqlite_database: Database) -> None:
    home = tmp_path / "out"
    home.mkdir()
    (home / "imagemill.sqlite3").write_bytes((tmp_path / "migrated.sqlite3").read_bytes())
    with imagemill.open(home) as mill:
        assert mill.jobs() == []
        with pytest.raises(UnknownJob):
            mill.images("latest")
        with pytest.raises(UsageError):
            mill.images(where="1; drop table jobs")
    with pytest.raises(SchemaError):
        imagemill.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
