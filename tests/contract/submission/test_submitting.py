"""`imagemill.submit` and `imagemill.run`: rows from Python mean what they mean in a file."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

import imagemill
from imagemill.db.database import Database
from imagemill.db.errors import ManifestError, SchemaError, UsageError
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest import Limits, open_source, read_manifest
from imagemill.scheduler_jobs.manifest.program_rows import rows_source, table_source
from imagemill.scheduler_jobs.manifest.rows import ManifestRow

LIMITS = Limits.from_settings(Settings())
ROWS = [
    {"prompt": "a red circle", "id": "p1", "mood": "calm", "guidance": 7.5, "seed": 2**63},
    {"prompt": 'a "blue" star,\n日本 🎨', "id": "p2", "mood": None, "guidance": 3.0, "seed": 4},
]


@pytest.fixture
def submit(database: Database, tmp_path: Path) -> Iterator[Callable[..., imagemill.Job]]:
    """`imagemill.submit` into a database, with a broker that is away."""
    settings = {
        "database_url": database.engine.url.render_as_string(hide_password=False),
        "broker_url": "redis://127.0.0.1:1/0",
        "storage_url": str(tmp_path / "objects"),
    }
    made = []

    def call(what: Any, **options: Any) -> imagemill.Job:
        made.append(imagemill.submit(what, settings=settings, **options))
        return made[-1]

    yield call
    for job in made:
        job.close()


def rows_of(database: Database) -> list[Any]:
    query = text("SELECT prompt, seed, steps, row_key FROM dataset_images ORDER BY image_id")
    with database.reading() as session:
        return [tuple(row) for row in session.execute(query)]


def test_importing_it_is_light() -> None:
    code = "import sys, imagemill; imagemill.submit; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_rows_are_queued_once(database: Database, submit: Callable[..., imagemill.Job]) -> None:
    job = submit(ROWS, steps=11, samples=2, name="mine", labels={"team": "x"}, cfg_rescale=None)
    assert (job.name, job.counts.requested, job.state) == ("mine", 4, "open")
    assert job.submission is not None
    assert (job.submission.rows, job.submission.created) == (2, True)
    assert repr(job) == f"<job {job.id} (mine): 0/4>"
    again = submit(iter(ROWS), steps=11, samples=2, name="mine")
    assert again.id == job.id
    assert again.submission is not None
    assert not again.submission.created
    found = rows_of(database)
    assert [(row[0], row[2], row[3]) for row in found[::2]] == [
        (each["prompt"], 11, f"id:{each['id']}") for each in ROWS
    ]
    with pytest.raises(TimeoutError, match="has not ended: 4 to render"):
        job.wait(seconds=0, progress=False)


def test_what_python_hands_over_is_what_a_file_says(
    database: Database, submit: Callable[..., imagemill.Job], tmp_path: Path
) -> None:
    """Lists, pandas, polars, Arrow and files: the same images."""
    file = tmp_path / "m.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pandas = pd.DataFrame(ROWS).astype({"seed": "uint64"})
    polars = pl.DataFrame(ROWS, schema_overrides={"seed": pl.UInt64})
    parquet = tmp_path / "m.parquet"
    pandas.to_parquet(parquet)
    ways = [ROWS, (dict(row) for row in ROWS), pandas, polars, polars.to_arrow(), file, [parquet]]
    jobs = [submit(way, name=f"way {n}", steps=5) for n, way in enumerate(ways)]
    query = text("SELECT request_key FROM dataset_images WHERE job_id = :job ORDER BY image_id")
    with database.reading() as session:
        keys = [tuple(session.scalars(query, {"job": job.id})) for job in jobs]
        extras = session.execute(text("SELECT DISTINCT CAST(extras AS TEXT) FROM rows")).all()
    assert len(set(keys)) == 1
    assert len(keys[0]) == 2
    assert {each[0].replace(" ", "") for each in extras} == {'{"mood":"calm"}', '{"mood":null}'}
    assert submit(pandas.copy(), name="again", steps=5).id == jobs[2].id, "the same table"


def test_prompts_alone_are_the_command_line_s(submit: Callable[..., imagemill.Job]) -> None:
    job = submit(["a ring", "a star"], grid={"steps": [10, 20]})
    assert (job.name, job.counts.requested) == ("prompts", 4)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.float32(7.3), 7.3),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (float("nan"), None),
        (pd.NA, None),
        (pd.NaT, None),
        (date(2026, 1, 2), "2026-01-02"),
        (Decimal("1.5"), "1.5"),
        (Path("a/b"), "a/b"),
        (b"text", "text"),
        ({"x": [np.int8(1)]}, {"x": [1]}),
    ],
)
def test_values_of_python_s_libraries(value: Any, found: Any) -> None:
    with rows_source([{"prompt": "a", "note": value}]) as source:
        [row] = read_manifest(source, limits=LIMITS)
    assert isinstance(row, ManifestRow)
    assert row.extras == {"note": found}


def test_a_filtered_frame_has_no_column_of_numbers() -> None:
    frame = pd.DataFrame({"prompt": ["a", "b"], "keep": [False, True]})
    with table_source(frame[frame["keep"]]) as source:
        [row] = read_manifest(source, limits=LIMITS)
    assert isinstance(row, ManifestRow)
    assert row.extras == {"keep": True}
    named = frame.set_index("prompt")
    with table_source(named) as source:
        assert [getattr(row, "prompt", None) for row in read_manifest(source, limits=LIMITS)] == [
            "a",
            "b",
        ]


BAD: list[tuple[Any, dict[str, Any], str, str]] = [
    ([{"prompt": "a"}, {"prompt": "b", "steps": "many"}], {}, "bad row", "rows:2: steps: "),
    (pd.DataFrame({"prompt": ["a", ""]}), {}, "bad row", "rows:2: prompt: "),
    ([{"prompt": "a", "photo": object()}], {}, "bad row", "rows:1: photo: a value of type object"),
    ([{"prompt": "a"}, 3], {}, "bad row", "rows:2: a row of type int"),
    ([{7: "a"}], {}, "bad row", "rows:1: a column called 7"),
    ([{"prompt": "a", "stesp": 3}], {}, "", "stesp"),
    ([], {}, "an empty file", ""),
    (pd.DataFrame({"prompt": ["a", 3]}), {}, "can't be read: .*prompt", ""),
    (["a"], {"stesp": 3}, "keywords: stesp: an unknown name", ""),
    (["a"], {"steps": 0}, "keywords: steps: ", ""),
    (["a"], {"seed": -1}, "seed: -1 is not from 0", ""),
    (["a"], {"seed": 1.5}, "seed: 1.5 is no whole number", ""),
    (["a"], {"variants": "some"}, "variants: 'some' is not one of", ""),
    (["a"], {"draws": 3}, "--draws has no effect", ""),
    (["a"], {"draws": 3, "variants": "all"}, "--draws has no effect without --variants sample", ""),
    (["a"], {"wildcards": "nowhere", "variants": "all"}, "there is no folder nowhere", ""),
    (["a"], {"columns": {"x": "nothing"}}, "names no field", ""),
    (["a"], {"init_image": "none.png"}, "--init-image none.png: there is no such file", ""),
    ("no such file.csv", {}, "no such file$", ""),
    (
        "a red circle",
        {},
        "a red circle: no such file; a prompt stands behind --prompt, in Python",
        "",
    ),
    ({"prompt": "a"}, {}, r"one row is \[row\]", ""),
    (7, {}, "int: expected rows", ""),
]


@pytest.mark.parametrize(("what", "options", "said", "noted"), BAD)
def test_what_is_bad_is_one_line_and_queues_nothing(
    database: Database,
    submit: Callable[..., imagemill.Job],
    what: Any,
    options: dict[str, Any],
    said: str,
    noted: str,
) -> None:
    if noted == "stesp":  # a name like a setting's is refused, as in a file
        said = "."
    with pytest.raises(UsageError, match=said) as told:
        submit(what, **options)
    assert "\n" not in told.value.message
    assert noted in " ".join([*getattr(told.value, "__notes__", []), told.value.message])
    if isinstance(told.value, ManifestError) and noted.startswith("rows:"):
        [problem] = told.value.problems
        assert str(problem).startswith(noted)
    assert rows_of(database) == []


def test_no_database_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="run `imagemill migrate`"):
        imagemill.submit(["a"], settings={"database_url": f"sqlite:///{tmp_path / 'no'}"})
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_read_again_as_it_was_written(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a"] * 3, "x": pa.array([1.5, None, 2.5], pa.float32())})
    pq.write_table(table, tmp_path / "m.parquet")
    with (
        table_source(table) as given,
        open_source(str(tmp_path / "m.parquet"), Settings()) as read,
    ):
        ours = [r for r in read_manifest(given, limits=LIMITS) if isinstance(r, ManifestRow)]
        theirs = [r for r in read_manifest(read, limits=LIMITS) if isinstance(r, ManifestRow)]
    assert [row.extras for row in ours] == [row.extras for row in theirs]
    assert len(ours) == 3


def test_an_empty_path_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="out: an empty path"):
        imagemill.run(["a"], "")
    assert list(tmp_path.iterdir()) == []
