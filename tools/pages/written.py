"""Which pages are written from the code, by what.

python -m tools.pages        writes them into docs/
"""

from collections.abc import Callable, Mapping

from tools.pages import api, columns, errors, settings, tables, views
from tools.pages.marks import DOCS

PAGES: Mapping[str, Callable[[], str]] = {
    "api.md": api.page,
    "columns.md": columns.page,
    "database.md": views.page,
    "errors.md": errors.page,
    "settings.md": settings.page,
    "tables.md": tables.page,
}
"""The file's name in docs/ → what gives its whole text."""


def main() -> int:
    """Write every page that isn't current; say which."""
    for name, text in PAGES.items():
        if (DOCS / name).read_text("utf-8") != text():
            (DOCS / name).write_text(text(), encoding="utf-8")
            print(f"{DOCS / name} is written anew")
    return 0
