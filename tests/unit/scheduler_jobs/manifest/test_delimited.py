"""The quick way to read a line with quotes, against the one that reads every line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagemill.scheduler_jobs.manifest.formats.delimited import _quoted_record, _simple_cells
from imagemill.scheduler_jobs.manifest.lines import Line
from imagemill.scheduler_jobs.manifest.problems import Broken


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
