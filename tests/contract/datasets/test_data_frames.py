"""Images and answers as data frames and as sources for training, on both databases."""

import pickle
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest

import imagemill
from imagemill.db.errors import UsageError
from imagemill.db.storage.folder import FolderStorage
from imagemill.images import Images
from imagemill.reader import Mill as Reader
from tests.helpers.dataset import finished_job
from tests.helpers.mill import Mill

ROWS = [
    {"prompt": "a", "id": "p1", "seed": 2**64 - 1, "rating": 3, "mood": "calm"},
    {"prompt": "b", "id": "p2", "rating": 4.5},
]


@pytest.fixture
def images(mill: Mill, tmp_path: Path) -> Images:
    """A finished job's images, as a user opens them."""
    finished_job(mill, FolderStorage(tmp_path / "objects"), tmp_path, ROWS, samples=1)
    url = mill.database.engine.url.render_as_string(hide_password=False)
    opened: Reader = imagemill.open(url, storage_url=str(tmp_path / "objects"))
    return opened.images("latest")


def test_one_line_for_each_library(images: Images) -> None:
    polars = pl.DataFrame(images)
    assert polars["seed"].dtype == pl.UInt64
    assert polars["rating"].to_list() == [3.0, 4.5]
    assert polars["mood"].to_list() == ["calm", None]
    assert polars["created_at"].dtype == pl.Datetime("us", "UTC")
    pandas = images.to_arrow().to_pandas()
    assert isinstance(pandas, pd.DataFrame)
    assert next(iter(pandas["seed"])) == 2**64 - 1
    assert list(pandas["uri"]) == [image["uri"] for image in images]
    frame = images.to_arrow(pictures=True)
    assert duckdb.sql("SELECT sum(rating), min(octet_length(image)) > 8 FROM frame").fetchall() == [
        (7.5, True)
    ]
    assert set(frame.column_names) >= set(next(iter(images)))


def test_the_answer_of_a_query(images: Images) -> None:
    rows = images._place.query("SELECT prompt, seed FROM dataset_images ORDER BY image_id")
    assert pl.DataFrame(rows)["seed"].to_list()[0] == 2**64 - 1
    assert [row["prompt"] for row in rows] == ["a", "b"]
    assert rows.to_arrow().num_rows == 2
    wrong = images._place.query("SELECT promt FROM dataset_images")
    with pytest.raises(UsageError, match="promt"):
        list(wrong)
    with pytest.raises(UsageError, match="promt"):
        wrong.to_arrow()


def test_nothing_is_a_frame_too(mill: Mill, tmp_path: Path) -> None:
    mill.load("job", ["a"])
    reader = Reader(mill.database, FolderStorage(tmp_path))
    assert pl.DataFrame(reader.images("latest")).shape[0] == 0
    assert pl.DataFrame(reader.query("SELECT 1 AS one WHERE 1 = 2")).shape == (0, 1)


def test_datasets_takes_examples(images: Images, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    found = images.dataset()
    assert found[0]["seed"] == 2**64 - 1
    assert [example["prompt"] for example in found] == ["a", "b"]
    assert found[0]["image"].size == (64, 64)
    few = images._place.images("latest", where="prompt = 'b'")
    streamed = datasets.Dataset.from_generator(few.examples, cache_dir=str(tmp_path / "cache"))
    assert [(each["prompt"], each["image"].size) for each in streamed] == [("b", (64, 64))]


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_takes_them_from_several_processes(images: Images, workers: int) -> None:
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(
        images.torch(), batch_size=None, num_workers=workers, multiprocessing_context=None
    )
    found = {example["prompt"]: example["image"].size for example in loader}
    assert found == {"a": (64, 64), "b": (64, 64)}
    assert sorted(example["prompt"] for example in loader) == ["a", "b"], "once more"


def test_they_can_go_to_another_process(images: Images, mill: Mill, tmp_path: Path) -> None:
    again = pickle.loads(pickle.dumps(images))
    assert [image["prompt"] for image in again] == ["a", "b"]
    with pytest.raises(TypeError, match=r"imagemill\.open"):
        pickle.dumps(Reader(mill.database, FolderStorage(tmp_path)).images("latest"))
    with pytest.raises(UsageError, match="in one process"):
        images._place.new_images().elsewhere()
