"""Passes of scorers on both databases: each image once, whoever was lost; tags; conditions."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from PIL import Image
from sqlalchemy import text

from imagemill.db.errors import ServiceError, StorageError, UsageError
from imagemill.db.queries.pictures.scores import summarize_failures, summarize_scores
from imagemill.db.queries.work import score_work
from imagemill.db.queries.work.score_work import Judgement, WorkPiece
from imagemill.db.scorers import ScorerEntry, find_scorers, known_scorers
from imagemill.db.storage import Storage
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.cli import cli
from imagemill.scheduler_jobs.curation.chosen_images import named_images
from imagemill.scheduler_jobs.curation.passes import plan_pass
from imagemill.scheduler_jobs.curation.tags import tag_images, untag_images
from imagemill.scheduler_jobs.exports.selection import Selection, select_images
from imagemill.scheduler_jobs.store_check import verify
from imagemill.worker.scores.shelf import ScorerShelf
from imagemill.worker.scores.shift import ScoreReport, ScoreShift
from imagemill.worker.shifts.worker_context import WorkerContext
from tests.helpers.dataset import PNG_ROWS, finished_job
from tests.helpers.mill import Mill
from tests.helpers.workshop import Workshop, quick_settings

LENGTH = ScorerEntry(name="length", version="1", target=f"{__name__}:Length", title="-")


class Length:
    """Numbers the letters of a prompt; breaks on what is green."""

    yields = ("letters", "first_word")
    calls: ClassVar[Counter[int]] = Counter()

    def score(self, pictures: Sequence[Image.Image], records: Sequence[Any]) -> list[Any]:
        assert all(picture.mode == "RGB" for picture in pictures)
        if any("green" in record.prompt for record in records):
            raise ValueError("green")
        self.calls.update(record.image_id for record in records)
        return [
            {"letters": len(record.prompt), "first_word": record.prompt.split()[1]}
            for record in records
        ]


class Tired:
    """Its server goes away at the third call, and comes back for the fourth."""

    yields = ("calls",)
    batch = 2
    calls = 0

    def score(self, pictures: Sequence[Image.Image], records: Sequence[Any]) -> list[Any]:
        type(self).calls += 1
        if self.calls == 3:
            raise ServiceError("gone")
        return [{"calls": self.calls} for _ in pictures]


@pytest.fixture
def job(mill: Mill, folder_storage: FolderStorage, tmp_path: Path) -> int:
    Length.calls.clear()
    return finished_job(mill, folder_storage, tmp_path)


def plan(mill: Mill, job: int, *names: str, where: str | None = None) -> dict[str, int]:
    scorers = [
        LENGTH if name == "length" else find_scorers([name], known_scorers())[0] for name in names
    ]
    return plan_pass(mill.database, job_ids=[job], scorers=scorers, where=where)


def work(mill: Mill, storage: Storage, **more: ScorerEntry) -> ScoreReport:
    settings = quick_settings()
    context = WorkerContext(
        database=mill.database, storage=storage, settings=settings, worker_id=mill.worker_id
    )
    shelf = ScorerShelf({**known_scorers(), "length": LENGTH, **more}, settings)
    return ScoreShift(context, shelf=shelf).work()


def view(mill: Mill, query: str) -> list[Mapping[str, Any]]:
    with mill.database.reading() as session:
        return list(session.execute(text(query)).mappings())


def claim(mill: Mill, shift: int) -> WorkPiece | None:
    return mill.database.run(
        lambda session: score_work.claim_piece(
            session, shift_id=shift, route="default", known=[("sharpness", "1")], max_losses=2
        )
    )


def complete(mill: Mill, shift: int, piece: WorkPiece, value: float = 1.0) -> bool:
    def record(session: Any) -> bool:
        images = score_work.to_judge(session, piece.image_ids, piece.scorer, piece.version)
        told = [Judgement(image=image, scores={"sharpness": value}) for image in images]
        return score_work.complete_piece(session, shift_id=shift, piece=piece, judgements=told)

    return mill.database.run(record)


def lose(mill: Mill, shift: int) -> None:
    mill.expire(shift)
    mill.rescue()


def test_work_that_a_shift_has_given_back_is_not_planned_twice(mill: Mill, job: int) -> None:
    """A judge's answer would be paid for twice: two processes would take one piece each."""
    assert plan(mill, job, "sharpness") == {"sharpness": 6}
    shift = mill.shift()
    assert claim(mill, shift) is not None
    mill.end(shift)
    assert plan(mill, job, "sharpness") == {"sharpness": 6}
    assert [each["images"] for each in view(mill, "SELECT images FROM score_work")] == [6]


def test_every_scorer_of_ours_judges_each_image_once(
    mill: Mill, folder_storage: FolderStorage, job: int
) -> None:
    names = sorted(set(known_scorers()) - {"shapes64"})  # which needs other prompts
    assert plan(mill, job, *names) == dict.fromkeys(names, 6)
    report = work(mill, folder_storage)
    assert (report.judged, report.failed) == (6 * len(names), 0)
    assert plan(mill, job, *names) == dict.fromkeys(names, 0)
    rows = view(mill, "SELECT * FROM dataset_scores WHERE name IN ('sharpness', 'phash')")
    assert Counter(row["name"] for row in rows) == {"sharpness": 6, "phash": 6}
    for row in rows:
        assert (row["job_id"], row["job_name"], row["version"]) == (job, "set", "1")
        if row["name"] == "phash":
            assert row["value"] is None
            assert len(row["text"]) == 16
        else:
            assert row["text"] is None
            assert row["value"] > 0
    assert view(mill, "SELECT * FROM score_work") == []


def test_a_package_s_scorer_judges_and_its_errors_are_recorded(
    mill: Mill, folder_storage: FolderStorage, job: int
) -> None:
    plan(mill, job, "length")
    report = work(mill, folder_storage)
    assert (report.judged, report.failed) == (4, 2)
    assert set(Length.calls.values()) == {1}
    with mill.database.reading() as session:
        letters = summarize_scores(session, job)[1]
        (failure,) = summarize_failures(session, job)
    assert (letters.name, letters.scorer, letters.images) == ("letters", "length", 4)
    assert (letters.lowest, letters.highest) == (12.0, 19.0)
    assert (failure.scorer, failure.code, failure.images) == ("length", "score", 2)
    assert failure.message == "ValueError: green"
    assert plan(mill, job, "length") == {"length": 2}, "what failed is tried again"


def test_missing_and_damaged_files_are_failures_with_a_reason(
    mill: Mill, folder_storage: FolderStorage, job: int, tmp_path: Path
) -> None:
    keys = [row["object_key"] for row in view(mill, "SELECT object_key FROM dataset_images")]
    folder_storage.delete(keys[0])
    damaged = tmp_path / "objects" / keys[1]
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    plan(mill, job, "sharpness")
    assert (work(mill, folder_storage).judged, len(keys)) == (4, 6)
    with mill.database.reading() as session:
        codes = {each.code: each.images for each in summarize_failures(session, job)}
    assert codes == {"object_missing": 1, "score": 1}
    # Rendered again, they are judged as any other.
    verify(mill.database, folder_storage, job, requeue=True)
    with mill.database.reading() as session:
        assert list(summarize_failures(session, job)) == []


def test_a_store_that_is_away_loses_nothing(
    mill: Mill, folder_storage: FolderStorage, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_key: str) -> bytes:
        raise StorageError("gone")

    plan(mill, job, "sharpness")
    with monkeypatch.context() as patch:
        patch.setattr(folder_storage, "get", away)
        with pytest.raises(StorageError):
            work(mill, folder_storage)
    assert view(mill, "SELECT * FROM score_failures") == []
    assert work(mill, folder_storage).judged == 6


def test_what_was_judged_before_a_server_went_away_is_kept(
    mill: Mill, folder_storage: FolderStorage, job: int
) -> None:
    Tired.calls = 0
    entry = ScorerEntry(name="tired", version="1", target=f"{__name__}:Tired", title="-")
    plan_pass(mill.database, job_ids=[job], scorers=[entry])
    with pytest.raises(ServiceError):
        work(mill, folder_storage, tired=entry)
    assert len(view(mill, "SELECT * FROM dataset_scores")) == 4
    assert work(mill, folder_storage, tired=entry).judged == 2
    rows = view(mill, "SELECT value FROM dataset_scores ORDER BY image_id")
    assert [row["value"] for row in rows] == [1, 1, 2, 2, 4, 4]
    assert view(mill, "SELECT * FROM score_work") == []


def test_only_the_live_shift_records_and_once(mill: Mill, job: int) -> None:
    plan(mill, job, "sharpness")
    frozen, other = mill.shift(), mill.shift()
    first = claim(mill, frozen)
    assert first is not None
    assert claim(mill, other) is None, "it is held"
    lose(mill, frozen)
    assert not complete(mill, frozen, first, 99.0)
    assert claim(mill, frozen) is None, "its lease is over"
    pieces = []
    while (piece := claim(mill, other)) is not None:
        pieces.append(piece)
        assert complete(mill, other, piece)
        assert not complete(mill, other, piece)
    assert sorted(each for piece in pieces for each in piece.image_ids) == sorted(first.image_ids)
    assert {len(piece.image_ids) for piece in pieces} == {1}, "one that kills is found alone"
    assert [row["value"] for row in view(mill, "SELECT value FROM dataset_scores")] == [1.0] * 6


def test_an_image_that_kills_its_worker_fails_and_the_others_are_judged(
    mill: Mill, job: int
) -> None:
    plan(mill, job, "sharpness")
    poison = min(row["image_id"] for row in view(mill, "SELECT image_id FROM dataset_images"))
    shifts = 0
    while True:
        shift = mill.shift()
        shifts += 1
        while (piece := claim(mill, shift)) is not None and poison not in piece.image_ids:
            complete(mill, shift, piece)
        if piece is None:
            break
        lose(mill, shift)
    assert shifts == 4
    assert len(view(mill, "SELECT * FROM dataset_scores")) == 5
    with mill.database.reading() as session:
        (failure,) = summarize_failures(session, job)
    assert (failure.code, failure.images) == ("worker_lost", 1)


def test_a_picture_that_is_rendered_again_has_no_scores(
    mill: Mill, folder_storage: FolderStorage, job: int, tmp_path: Path
) -> None:
    plan(mill, job, "sharpness")
    work(mill, folder_storage)
    (one, *_) = view(mill, "SELECT object_key FROM dataset_images")
    folder_storage.delete(one["object_key"])
    assert verify(mill.database, folder_storage, job, requeue=True).requeued == 1
    workshop = Workshop(mill, tmp_path / "unused")
    workshop.storage = folder_storage
    assert workshop.shift().done == 1
    assert len(view(mill, "SELECT * FROM dataset_scores")) == 5
    assert plan(mill, job, "sharpness") == {"sharpness": 1}
    work(mill, folder_storage)
    assert len(view(mill, "SELECT * FROM dataset_scores")) == 6


def test_a_new_version_replaces_what_the_old_one_said(mill: Mill, job: int) -> None:
    sharpness = find_scorers(["sharpness"], known_scorers())
    for version in ("0", "1"):
        entry = ScorerEntry(name="sharpness", version=version, target="-", title="-")
        plan_pass(mill.database, job_ids=[job], scorers=[entry])
        shift = mill.shift()
        piece = mill.database.run(
            lambda session, shift=shift, version=version: score_work.claim_piece(
                session,
                shift_id=shift,
                route="default",
                known=[("sharpness", version)],
                max_losses=2,
            )
        )
        assert piece is not None
        complete(mill, shift, piece, float(version))
    rows = view(mill, "SELECT version, value FROM dataset_scores")
    assert [tuple(row.values()) for row in rows] == [("1", 1.0)] * 6
    assert plan_pass(mill.database, job_ids=[job], scorers=sharpness) == {"sharpness": 0}


def test_conditions_know_scores_and_tags(
    mill: Mill, folder_storage: FolderStorage, job: int
) -> None:
    plan(mill, job, "length", where="mood is not null or rating = 4.5")
    work(mill, folder_storage)

    def held(where: str, what: str = str(job)) -> list[int]:
        with mill.database.reading() as session:
            return named_images(session, what, where)

    with mill.database.reading() as session:
        p1, p2, p3 = (
            [image["image_id"] for image in select_images(session, Selection(jobs=[job], where=w))]
            for w in ("row_key = 'p1'", "row_key = 'p2'", "row_key = 'p3'")
        )
    assert held("letters < 15") == p1
    assert held("letters between 1 and 15 or first_word = 'blue'") == [*p1, *p2]
    assert tag_images(mill.database, [*p1, *p2], "keep") == 4
    assert tag_images(mill.database, [*p2, *p3], "keep") == 2
    assert tag_images(mill.database, p3, "odd") == 2
    assert untag_images(mill.database, [*p1, *p3], "keep") == 4
    assert held("tag = 'keep'") == p2
    assert held("tag <> 'keep'") == [*p1, *p3]
    assert held("tag is null") == p1
    assert held("tag in ('odd', 'keep')") == [*p2, *p3]
    assert held("tag like 'o%' and not tag = 'keep'") == p3
    assert held("letters > 1 and tag = 'keep'", f"image:{p2[1]},{p1[0]}") == p2[1:]
    with pytest.raises(
        UsageError, match=r"nothing is called 'lettres'; did you mean letters\? there are .*letters"
    ):
        held("lettres > 1")
    with pytest.raises(UsageError, match="`imagemill score JOB --with phash` gives it"):
        held("phash = 'f'")
    tags = view(mill, "SELECT tags FROM dataset_images ORDER BY image_id")
    assert [str(row["tags"]).replace("'", '"') for row in tags] == [
        *["[]"] * 2,
        *['["keep"]'] * 2,
        *['["odd"]'] * 2,
    ]


def test_a_manifest_s_own_columns_are_found_beside_scores_of_their_name(
    mill: Mill, folder_storage: FolderStorage, tmp_path: Path
) -> None:
    rows = [{**PNG_ROWS[0], "letters": "abc", "tags": "1girl", "tag": "mine"}]
    job = finished_job(mill, folder_storage, tmp_path, rows, samples=1)
    plan(mill, job, "length")
    work(mill, folder_storage)
    with mill.database.reading() as session:
        (image,) = select_images(session, Selection(jobs=[job]))
        assert image.extras["extra_letters"] == "abc"
        assert image.extras["letters"] == 12.0
        assert image.extras["extra_tags"] == "1girl"
        own = "extras.letters = 'abc' and extras.tags = '1girl' and extras.tag = 'mine'"
        for where in (own, "letters = 12", "tag is null", "extra_letters = 'abc'"):
            assert named_images(session, str(job), where) == [image["image_id"]], where


def test_status_and_watch_show_what_scorers_have_left(
    mill: Mill, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(mill, job, "length", "sharpness")
    assert claim(mill, mill.shift())
    url = mill.database.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("IMAGEMILL_DATABASE_URL", url)

    def told(*words: str) -> Any:
        done = CliRunner().invoke(cli, [*words])
        assert done.exit_code == 0, done.output
        return json.loads(done.output) if "--json" in words else done.output

    expected = [
        {"job_id": job, "job_name": "set", "scorer": name, "left": 6, "running": running}
        for name, running in (("length", 0), ("sharpness", 6))
    ]
    assert told("status", "--json")["scoring"] == expected
    assert told("status", "latest", "--json")["scoring"] == expected
    assert told("watch", "latest", "--json")["scoring"] == expected
    for words in (("status",), ("status", "latest")):
        assert re.search(
            rf"SCORER +JOB +NAME +LEFT +RUNNING\nlength +{job} +set +6 +0", told(*words)
        )
    said = "6 images done of 6; left to judge: 6 by length, 6 by sharpness"
    assert said in told("watch", "latest")


def test_scorers_without_a_name_are_refused() -> None:
    refused = CliRunner().invoke(cli, ["score", "latest", "--with", " "])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "--with: an empty text" in refused.stderr


def test_a_broker_that_is_away_is_not_said_to_have_the_queue(
    mill: Mill, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = mill.database.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("IMAGEMILL_DATABASE_URL", url)
    monkeypatch.setenv("IMAGEMILL_BROKER_URL", "redis://127.0.0.1:1/0")
    asked = CliRunner().invoke(cli, ["score", str(job), "--with", "phash", "--queue"])
    assert asked.exit_code == 0, asked.output
    assert asked.stdout == "phash: 6 images recorded, to be queued by the dispatcher\n"
    assert "workers begin when the broker is back: redis://127.0.0.1:1/0" in asked.stderr
