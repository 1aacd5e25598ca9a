"""docs/api.md is what `python -m tools.api` writes, and leaves out no public name."""

import imagemill
from tools.api import PAGE, page, prose


def test_the_page_is_current():
    assert PAGE.read_text("utf-8") == page(), "run `python -m tools.api`"


def test_every_public_name_has_its_section():
    text = PAGE.read_text("utf-8")
    assert [name for name in imagemill.__all__ if f"## `imagemill.{name}`" not in text] == []


def test_a_docstring_becomes_paragraphs_code_and_lists():
    raises = "Raises:\n    OneError: it is done,\n        and more.\n    TwoError: no."
    assert prose(f"Do it.\n\n    it = do()\n\n{raises}").split("\n\n") == [
        "Do it.",
        "```python\nit = do()\n```",
        "*Raises*",
        "- `OneError`: it is done, and more.\n- `TwoError`: no.\n",
    ]
