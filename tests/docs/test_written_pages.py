"""The pages that `python -m tools.pages` writes are current."""

import pytest

from tools.pages.marks import DOCS
from tools.pages.written import PAGES


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_current(name):
    assert (DOCS / name).read_text("utf-8") == PAGES[name](), "run `python -m tools.pages`"
