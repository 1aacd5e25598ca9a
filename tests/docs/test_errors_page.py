"""The codes of docs/errors.md, which `python -m tools.pages` writes, are distinct."""

from collections import Counter

from tools.pages.errors import error_classes


def test_every_code_is_one_class():
    codes = Counter(error.code for error in error_classes())
    assert [code for code, times in codes.items() if times > 1] == []
