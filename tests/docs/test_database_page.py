"""docs/database.md has the columns of `db/view_columns.py`."""

from tools.views import PAGE, page


def test_the_page_is_current():
    assert PAGE.read_text("utf-8") == page(), "run `python -m tools.views`"
