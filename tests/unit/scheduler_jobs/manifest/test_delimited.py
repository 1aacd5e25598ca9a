"""Lines with quotes, read in the quick way and in the one for all of them, and bad lines."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagemill.scheduler_jobs.manifest.formats.delimited import (
    _quoted_record,
    _simple_cells,
    read_table,
)
from imagemill.scheduler_jobs.manifest.formats.dialects import Dialect
from imagemill.scheduler_jobs.manifest.problems import Broken
from imagemill.scheduler_jobs.manifest.raw_rows import BadRow
from imagemill.scheduler_jobs.manifest.sources.lines import Line, read_lines


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@settings(max_examples=400, deadline=None)
@given(pieces=st.lists(st.sampled_from(['"', '"', "D", "D", "a", " ", "\t", ",", "\r", "é"])))
def test_the_quick_way_finds_the_same_cells_or_none(delimiter, pieces):
    text = "".join(pieces).replace("D", delimiter)
    cells = _simple_cells(text, delimiter)
    if cells is not None:
        record = _quoted_record(Line(1, text), iter(()), delimiter, 1000)
        assert record.bad is None
        assert record.cells == cells


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ('"a",b', ["a", "b"]),
        ('1,"a, b","",2', ["1", "a, b", "", "2"]),
        ('"a","b"', ["a", "b"]),
        (',"a",,', ["", "a", "", ""]),
    ],
)
def test_what_spreadsheets_write_is_read_the_quick_way(text, cells):
    assert _simple_cells(text, ",") == cells


@pytest.mark.parametrize("text", ['"a', '"say ""hi""",b', 'a"b"', '"a" ,b', '5",6"', '"a\rb"'])
def test_what_is_not_simple_is_left_to_the_other_way(text):
    assert _simple_cells(text, ",") is None


def test_a_quote_that_is_never_closed_is_no_simple_line():
    with pytest.raises(Broken):
        _quoted_record(Line(1, '"a'), iter(()), ",", 1000)


LONG = b"x" * 300


@pytest.mark.parametrize(
    "cell",
    [
        b'"caf\xe9\nsecond line"',
        b'"first line\ncaf\xe9"',
        b'"a\0b\nsecond line"',
        b'"' + LONG + b'\nsecond line"',
        b'"first line\n' + LONG + b'"',
        b'"""' + LONG + b'"" said\nanother"',
        b"caf\xe9",
        b'5" caf\xe9',
        LONG,
    ],
)
def test_a_bad_line_is_one_bad_row_whatever_cell_it_is_in(cell):
    """What follows in the cell is no row of its own: it would be rendered as a prompt."""
    file = b"prompt,name\n" + cell + b',one\n"a red\ncircle",two\na star,three\n'
    lines = read_lines(io.BufferedReader(io.BytesIO(file)), max_line_bytes=100)
    dialect = Dialect(delimiter=",", quoted=True, trimmed=False)
    bad, *rows = read_table(
        lines, dialect=dialect, check_header=lambda *_: None, max_line_bytes=1000
    )
    assert isinstance(bad, BadRow)
    assert (bad.number, bad.line) == (1, 2)
    assert [row.cells["name"] for row in rows] == ["two", "three"]
