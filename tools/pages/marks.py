"""Pages of which a part is written from the code, between two marks."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

END = "<!-- end of what is written -->"


def between(page: str, begin: str, text: str) -> str:
    """`page` with `text` from its mark `begin` to the mark `END`; it has the former once."""
    marks = f"{re.escape(begin)}.*?{re.escape(END)}"
    assert len(re.findall(marks, page, re.DOTALL)) == 1, f"the page has {begin} once"
    return re.sub(marks, lambda _: f"{begin}\n\n{text}\n\n{END}", page, flags=re.DOTALL)
