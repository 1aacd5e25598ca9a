"""docs/columns.md, which `python -m tools.pages` writes, tells all of each field."""

import re

from imagemill.scheduler_jobs.manifest import Parameters
from imagemill.scheduler_jobs.manifest.columns.fields import FIELDS
from tools.pages.marks import DOCS


def test_every_field_has_its_names_its_bounds_and_a_meaning():
    text = (DOCS / "columns.md").read_text("utf-8")
    rows = [line.strip("|").split(" | ") for line in text.splitlines()]
    table = {row[0].strip(" `"): row for row in rows if len(row) == 5}
    assert set(FIELDS) <= set(table)
    for name, about in FIELDS.items():
        _, also, bounds, meaning, flag = table[name]
        assert set(about.also) <= set(re.findall(r"`([^`]+)`", also)), name
        assert bounds.strip(), name
        assert meaning.endswith("."), name
        assert (about.flag is None) == (not flag.strip()), name


def test_a_field_that_is_no_parameter_says_what_it_may_be_and_what_it_becomes():
    for name, about in FIELDS.items():
        read_into = name not in {*Parameters.model_fields, "prompt", "id"}
        assert bool(about.becomes) == read_into, name
        assert bool(about.allowed) == (name not in Parameters.model_fields), name
