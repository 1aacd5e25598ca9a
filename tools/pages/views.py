"""The tables of views in docs/database.md, written from `db/views/columns.py`."""

from imagemill.db.views.columns import VIEWS
from tools.pages.marks import DOCS, between

BEGIN = "<!-- written by `python -m tools.pages` from db/views/columns.py -->"


def tables() -> str:
    """What stands between the marks: a section for each view."""
    parts = []
    for name, view in VIEWS.items():
        rows = [f"| `{column}` | {meaning} |" for column, meaning in view.columns.items()]
        parts += [f"### `{name}`", "", view.line, "", "| column | |", "| --- | --- |", *rows, ""]
    return "\n".join(parts).rstrip()


def page() -> str:
    """The text of docs/database.md with current tables."""
    return between((DOCS / "database.md").read_text("utf-8"), BEGIN, tables())
