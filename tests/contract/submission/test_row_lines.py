"""A row's line is shown as the manifest has it, though its prompt is stored with images only."""

import pytest
from sqlalchemy import select, text

from imagemill.db.queries.pictures.dataset import stream_images
from imagemill.db.queries.pictures.image_reports import ImageFilter, find_image, list_images
from imagemill.db.settings import Settings
from imagemill.db.states import ImageState
from imagemill.db.tables import Row
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from imagemill.scheduler_jobs.submit.submission import submit
from tests.helpers.mill import REFUSED, Mill

CSV = """prompt,tag
a red circle,a red circle
"a ""quoted"" star",x
 żółć 🦊 of blue ,🦊
"two
lines",y
a,a
{a|b} cat,z
"""
LINES = CSV.replace('"two\nlines"', '"two|lines"').splitlines()[1:]
PROMPTS = ["a red circle", 'a "quoted" star', " żółć 🦊 of blue ", "two\nlines", "a"]
STORED = [(",a red circle", 0), (LINES[1], None), (",🦊", 0), ('"",y', 1), (",a", 0)]


@pytest.fixture
def job(database, tmp_path) -> int:
    file = tmp_path / "lines.csv"
    file.write_text(CSV, encoding="utf-8")
    # Nobody listens at this broker: nothing is woken.
    where = {"storage_url": str(tmp_path / "objects"), "broker_url": "redis://127.0.0.1:1/0"}
    settings = Settings.load(**where)
    request = SubmissionRequest(manifest=str(file), variants="all")
    return submit(request, settings=settings, database=database).job_id


def test_the_prompt_is_stored_once_unless_it_was_expanded(database, job: int) -> None:
    with database.reading() as session:
        rows = session.scalars(select(Row).where(Row.job_id == job).order_by(Row.number)).all()
        assert [(row.verbatim, row.prompt_at) for row in rows] == [*STORED, (LINES[5], None)]


def test_every_reader_gets_the_line_as_it_was(database, job: int) -> None:
    lines = [line.replace("|lines", "\nlines") for line in (*LINES, LINES[5])]
    mill = Mill(database)
    shift = mill.shift()
    while held := mill.claim(shift, limit=8):
        for image in held:
            mill.fail(shift, image.id, REFUSED)
    with database.reading() as session:
        listed = list_images(session, ImageFilter(), limit=10)
        assert [find_image(session, each.id).verbatim for each in listed] == lines
        dead = stream_images(session, job, states=[ImageState.DEAD])
        assert [each["verbatim"] for each in dead] == lines
        view = text("SELECT prompt, verbatim FROM dataset_failures ORDER BY image_id")
        shown = [tuple(row) for row in session.execute(view)]
    assert shown == list(zip([*PROMPTS, "a cat", "b cat"], lines, strict=True))


def test_rows_from_before_have_the_whole_line(database, job: int) -> None:
    with database.writing() as session:
        session.execute(text("UPDATE rows SET verbatim = 'as it was', prompt_at = NULL"))
    with database.reading() as session:
        first = list_images(session, ImageFilter(), limit=1)[0]
        assert find_image(session, first.id).verbatim == "as it was"
