"""docs/errors.md is what `python -m tools.errors` writes, and codes are distinct."""

from collections import Counter

from tools.errors import PAGE, error_classes, page


def test_the_page_is_current():
    assert PAGE.read_text("utf-8") == page(), "run `python -m tools.errors`"


def test_every_code_is_one_class():
    codes = Counter(error.code for error in error_classes())
    assert [code for code, times in codes.items() if times > 1] == []
