"""Texts, numbers and tables as commands print them."""

import io
import re
import sys
from datetime import UTC, datetime, timedelta

import click
import pytest
from click.testing import CliRunner

from imagemill.db.queries.tallies import Counts
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column
from imagemill.scheduler_jobs.cli.display.progress import Pace, ProgressView


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("\x1b]0;title\x07\x1b[2J", "]0;title[2J"),
        ("left \u202eright\u2066", "left right"),
        ("nul\0 bell\a del\x7f c1\x9b31m", "nul bell del c131m"),
        ("half a pair \ud800", "half a pair "),
        ("Ünïcödé 日本 🎨", "Ünïcödé 日本 🎨"),
    ],
)
def test_clean(text, shown):
    assert output.clean(text) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_duration(seconds, shown):
    assert output.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (12345, "12,345"), (0.0731, "0.07"), (2.64, "2.6"), (8.0, "8"), (1234.5, "1,234")],
)
def test_number(value, shown):
    assert output.number(value) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(12, "12 bytes"), (7300, "7.3 kB"), (5_100_000_000_000, "5100.0 GB")]
)
def test_size(count, shown):
    assert output.size(count) == shown


def test_ago():
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert output.ago(now - timedelta(seconds=90), now) == "1 min 30 s ago"
    assert output.ago(now + timedelta(seconds=90), now) == "0 s ago"
    assert output.moment(now) == "2026-01-02 03:04:05 UTC"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "`imagemill watch 3`"),
        (["--home", "my pictures"], "`imagemill --home 'my pictures' watch 3`"),
    ],
)
def test_a_command_that_is_offered_works_on_the_same_home(words: list[str], told: str):
    @click.group()
    @click.option("--home")
    def outermost(home):
        del home

    @outermost.command()
    def submit():
        output.line(output.offered("watch 3"))

    assert CliRunner().invoke(outermost, [*words, "submit"]).output == f"{told}\n"


def test_tables_are_plain_columns_where_there_is_no_terminal():
    @click.command()
    def show():
        columns = (Column(title="N", right=True), Column(title="TEXT", elastic=True))
        output.table(columns, [(1, "x" * 200), (20, None), (3, "[bold]\x1b[31m")])

    lines = CliRunner().invoke(show).output.splitlines()
    assert lines == [" N  TEXT", " 1  " + "x" * 200, "20", " 3  [bold][31m"]


def test_json_takes_no_nan_and_nothing_unknown():
    with pytest.raises(ValueError, match="not JSON compliant"):
        output.emit({"seconds": float("nan")})
    with pytest.raises(TypeError, match="no JSON form"):
        output.emit({"thing": object()})


def test_pace_is_counted_over_the_last_minute():
    pace = Pace()
    pace.add(90, at=-500.0)  # the model is being loaded
    pace.add(90, at=-1.0)
    pace.add(100, at=0.0)
    assert pace.images_per_second is None
    pace.add(160, at=30.0)
    assert pace.images_per_second == 2.0
    for second in range(31, 200):
        pace.add(160 + (second - 30) * 5, at=float(second))
    assert pace.images_per_second == pytest.approx(5.0, rel=0.02)


def test_pace_of_a_slow_job_is_that_of_its_last_two_images():
    pace = Pace()
    for second in range(365):
        pace.add(second // 90, at=float(second))
    assert pace.images_per_second == pytest.approx(1 / 90, rel=0.1)


def test_images_of_one_batch_tell_no_pace():
    pace = Pace()
    pace.add(0, at=0.0)
    for done, second in ((1, 10.0), (6, 10.1), (8, 10.9)):
        pace.add(done, at=second)
        assert pace.images_per_second is None
    pace.add(9, at=12.0)  # a late one of the first batch, or the first of the next
    assert pace.images_per_second is None
    pace.add(16, at=14.0)
    assert pace.images_per_second == 2.0
    pace.add(17, at=15.0)
    assert pace.images_per_second == pytest.approx(9 / 5)


def test_there_is_no_remaining_time_before_there_is_data():
    stream = io.StringIO()
    with ProgressView("shapes", stream) as view:
        view.update(Counts(ready=3, leased=1))
        view.update(Counts(ready=2, leased=1, done=1))
    assert stream.getvalue().splitlines() == [
        "shapes: 0/4 · waiting for the first image",
        "shapes: 1/4",
    ]


@pytest.mark.parametrize(
    ("value", "shown"), [(2.64, "2.6 images/s"), (0.5, "0.50 images/s"), (0.06, "17 s an image")]
)
def test_rate(value, shown):
    assert output.rate(value) == shown


def test_pace_knows_nothing_while_nothing_is_done():
    pace = Pace()
    pace.add(7, at=0.0)
    pace.add(7, at=10.0)
    assert pace.images_per_second is None


def test_progress_without_a_terminal_is_a_line_now_and_then():
    stream = io.StringIO()
    with ProgressView("shapes\x1b", stream) as view:
        for done in range(5):
            view.update(Counts(ready=4 - done, done=done))
        view.update(Counts(done=4, dead=1), note="paused")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "shapes: 0/4"
    assert len(lines) == 2
    assert lines[1].startswith("shapes: 4/5 · 1 dead")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_an_address_is_never_cut_into_lines(monkeypatch):
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    address = f"http://127.0.0.1:8420/?token={'a' * 40}"
    output.pairs([("gallery", address), ("note", "words " * 12)])
    told = re.sub(r"\x1b\[[0-9;]*m", "", sys.stdout.getvalue())
    assert address in told
    assert max(len(line) for line in told.splitlines() if "http" not in line) <= 40


def test_progress_on_a_terminal_is_a_bar():
    stream = Terminal()
    with ProgressView("shapes [red]", stream) as view:
        view.update(Counts(ready=3, done=1))
    assert "shapes [red]" in stream.getvalue()
    assert "25%" in stream.getvalue()
    assert "1/4" in stream.getvalue()


def test_a_bar_that_counted_nothing_is_taken_away(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with ProgressView("shapes", stream):
        pass
    assert stream.getvalue().endswith("\x1b[2K")  # the line is erased
