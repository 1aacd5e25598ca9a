"""`import imagemill`: reading jobs and pictures from Python."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

import imagemill
from imagemill.db.database import Database
from imagemill.db.errors import SchemaError, SettingsError, StorageError, UnknownJob, UsageError
from imagemill.db.storage import Storage
from imagemill.reader import Mill as Reader
from tests.helpers.dataset import finished_job
from tests.helpers.mill import Mill

if TYPE_CHECKING:
    from imagemill.db.storage.s3 import S3Storage


def test_importing_it_is_light() -> None:
    code = "import sys, imagemill; print(sorted({'torch', 'sqlalchemy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_shell_offers_names_that_are_not_loaded_yet() -> None:
    code = "import imagemill; print({*imagemill.__all__} <= {*dir(imagemill)})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


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
        with pytest.raises(
            UsageError, match="--where: nothing is called 'moood'; did you mean mood"
        ):
            use(reader.images(where="moood = 'calm'"))
    chosen = reader.images("latest", where="rating > 3")
    assert {image["row_key"] for image in chosen} == {"p2", "p3"}
    assert repr(chosen) == f"<images of job {job} that are ok where rating > 3>"
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
        assert repr(mill).startswith("<mill of sqlite:///")
    for place in (tmp_path / "nothing", home / "imagemill.sqlite3", ""):
        with pytest.raises(SchemaError, match="is no folder; name that of `imagemill run --out`"):
            imagemill.open(place)
    assert not (tmp_path / "nothing").exists()


def test_a_stack_is_opened_by_its_home_with_the_keys_of_its_store(
    sqlite_mill: Mill, s3_storage: "S3Storage", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `imagemill --home` does, and the program's own environment stays as it is."""
    finished_job(sqlite_mill, s3_storage, tmp_path)
    home = tmp_path / "stack"
    home.mkdir()
    variables = {
        "IMAGEMILL_DATABASE_URL": f"sqlite:///{sqlite_mill.database.file}",
        "IMAGEMILL_STORAGE_URL": s3_storage.uri,
        "IMAGEMILL_S3_ENDPOINT_URL": str(s3_storage._endpoint_url),
        "IMAGEMILL_GALLERY_TOKEN": "no setting",
    }
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        variables[name] = os.environ[name]
        monkeypatch.setenv(name, "of another store")
    file = home / "environment.json"
    file.write_text(json.dumps(variables))
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="others can read its passwords"):
        imagemill.open(home)
    file.chmod(0o600)
    with imagemill.open(home) as mill:
        first = next(iter(mill.images()))
        assert first.bytes().startswith(b"\x89PNG")
        with pickle.loads(pickle.dumps(mill)) as again:
            assert next(iter(again.images())).bytes() == first.bytes()
    assert os.environ["AWS_ACCESS_KEY_ID"] == "of another store"
