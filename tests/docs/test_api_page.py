"""docs/api.md, which `python -m tools.pages` writes, leaves out no public name."""

import imagemill
from tools.pages.api import prose
from tools.pages.marks import DOCS


def test_every_public_name_has_its_section():
    text = (DOCS / "api.md").read_text("utf-8")
    assert [name for name in imagemill.__all__ if f"## `imagemill.{name}`" not in text] == []


def test_a_docstring_becomes_paragraphs_code_and_lists():
    raises = "Raises:\n    OneError: it is done,\n        and more.\n    TwoError: no."
    assert prose(f"Do it.\n\n    it = do()\n\n{raises}").split("\n\n") == [
        "Do it.",
        "```python\nit = do()\n```",
        "*Raises*",
        "- `OneError`: it is done, and more.\n- `TwoError`: no.\n",
    ]
