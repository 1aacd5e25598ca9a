"""`pick` and `duplicates` on both databases, by scores as a pass records them."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from imagemill.db.errors import UsageError
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.cli import cli
from imagemill.scheduler_jobs.curation.duplicates import find_duplicates
from imagemill.scheduler_jobs.curation.picks import pick_images
from tests.helpers.dataset import finished_job
from tests.helpers.mill import Mill

ROWS = [{"prompt": "a red circle", "id": f"r{n}"} for n in range(2)] + [{"prompt": "a blue star"}]


@pytest.fixture
def job(mill: Mill, folder_storage: FolderStorage, tmp_path: Path) -> int:
    return finished_job(mill, folder_storage, tmp_path, ROWS, samples=3)


def give(mill: Mill, name: str, values: Mapping[int, float | str]) -> None:
    """Scores by the place of the image in its job."""
    insert = text(
        "INSERT INTO scores (image_id, name, scorer, version, generation, value, text)"
        " SELECT id, :name, 's', '1', generation, :value, :text FROM images WHERE id = :id"
    )
    with mill.database.writing() as session:
        ids = session.scalars(text("SELECT id FROM images ORDER BY id")).all()
        for place, value in values.items():
            is_text = isinstance(value, str)
            told = {"value": None if is_text else value, "text": value if is_text else None}
            session.execute(insert, {"name": name, "id": ids[place], **told})


def places(mill: Mill, ids: list[int]) -> list[int]:
    with mill.database.reading() as session:
        every = list(session.scalars(text("SELECT id FROM images ORDER BY id")))
    return [every.index(image_id) for image_id in ids]


PICKED: list[tuple[dict[str, object], list[int]]] = [
    ({}, [1, 3, 8]),
    ({"best": 2}, [0, 1, 3, 4, 8]),
    ({"per": "prompt"}, [1, 8]),
    ({"per": "job"}, [8]),
    ({"per": "job", "lowest": True}, [5]),
    ({"where": "sharp < 9 and sharp > 2"}, [0, 3]),
    ({"where": "row_key = 'r1'", "best": 9}, [3, 4, 5]),
]


def test_the_best_of_each_group_are_picked(mill: Mill, job: int) -> None:
    # Images 6 and 7 have no score. Of the equal images 3 and 4 the first is better.
    give(mill, "sharp", {0: 5, 1: 9, 2: 1, 3: 7, 4: 7, 5: 0.5, 8: 11})
    with mill.database.reading() as session:
        for choice, picked in PICKED:
            found = pick_images(session, [job], **{"by": "sharp", "best": 1, **choice})
            assert places(mill, found) == picked, choice
        with pytest.raises(UsageError, match="--by: nothing is called 'shrap'"):
            pick_images(session, [job], by="shrap", best=1)
        with pytest.raises(UsageError, match="'model' has no numbers but texts, such as "):
            pick_images(session, [job], by="model", best=1)


def test_duplicates_are_grouped_and_the_best_is_kept(mill: Mill, job: int) -> None:
    give(mill, "phash", {0: "00ff" * 4, 1: "00ff" * 3 + "00fe", 2: "ff00" * 4, 3: "ff00" * 4})
    give(mill, "phash", {4: "0f0f" * 4, 5: "00ff" * 3 + "00f0"})
    give(mill, "sharp", {1: 3.0, 2: 1.0, 3: 2.0})

    def found(**choice: object) -> list[list[int]]:
        with mill.database.reading() as session:
            result = find_duplicates(session, [job], **{"distance": 2, **choice})
        assert result.compared + result.without_hash == (9 if "where" not in choice else 3)
        return [places(mill, list(group)) for group in result.groups]

    assert found() == [[0, 1], [2, 3]]
    assert found(by="sharp") == [[1, 0], [3, 2]]
    assert found(distance=0) == [[2, 3]]
    assert found(distance=4) == [[0, 1, 5], [2, 3]]
    assert found(where="row_key = 'r0'") == [[0, 1]]


def test_nothing_to_compare_says_what_to_do(mill: Mill, job: int) -> None:
    with (
        mill.database.reading() as session,
        pytest.raises(UsageError, match="`imagemill score JOB --with phash` gives it"),
    ):
        find_duplicates(session, [job], distance=4)


def test_the_commands_tag_and_say_what_they_did(
    mill: Mill, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(mill, "phash", {0: "00ff" * 4, 1: "00ff" * 4, 2: "00ff" * 4, 3: "0f" * 8})
    give(mill, "sharp", {0: 1, 1: 2, 3: 4, 6: 5})
    url = mill.database.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("IMAGEMILL_DATABASE_URL", url)

    def run(*words: str) -> Result:
        done = CliRunner().invoke(cli, [*words])
        assert done.exit_code == 0, done.output
        return done

    said = run("duplicates", "latest", "--by", "sharp", "--tag", "twin").output
    assert "1 group of near-duplicates among 4 images: 2 could go, tagged twin" in said
    assert "5 images without a perceptual hash: `imagemill score JOB --with phash`" in said
    assert run("pick", "latest", "--by", "sharp").output == "3 images tagged picked\n"
    dry = run("pick", "latest", "--by", "sharp", "--per", "job", "--replace", "--dry-run").output
    assert dry == "1 image would be tagged picked, 2 others would be untagged\n"
    run("pick", "latest", "--by", "sharp", "--where", "tag = 'picked'", "--per", "job", "--replace")
    told = json.loads(run("pick", "latest", "--by", "sharp", "--dry-run", "--json").output)
    assert places(mill, told["picked"]) == [1, 3, 6]
    with mill.database.reading() as session:
        rows = session.execute(text("SELECT image_id, tag FROM tags ORDER BY tag, image_id")).all()
    assert [(*places(mill, [row.image_id]), row.tag) for row in rows] == [
        (6, "picked"),
        (0, "twin"),
        (2, "twin"),
    ]
