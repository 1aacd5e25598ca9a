"""The tables of views in docs/database.md, written from `db/view_columns.py`.

python -m tools.views        writes them between their two marks
"""

import sys
from pathlib import Path

from imagemill.db.view_columns import VIEWS
from tools.marks import between

PAGE = Path(__file__).parents[1] / "docs" / "database.md"

BEGIN = "<!-- written by `python -m tools.views` from db/view_columns.py -->"


def tables() -> str:
    """What stands between the marks: a section for each view."""
    parts = []
    for name, view in VIEWS.items():
        rows = [f"| `{column}` | {meaning} |" for column, meaning in view.columns.items()]
        parts += [f"### `{name}`", "", view.line, "", "| column | |", "| --- | --- |", *rows, ""]
    return "\n".join(parts).rstrip()


def page() -> str:
    """The text of docs/database.md with current tables."""
    return between(PAGE.read_text("utf-8"), BEGIN, tables())


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {sum(len(view.columns) for view in VIEWS.values())} columns")
    return 0


if __name__ == "__main__":
    sys.exit(main())
