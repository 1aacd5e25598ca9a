"""The table of settings in docs/settings.md, written from `db/settings.py`."""

from typing import Any

from pydantic import SecretStr

from imagemill.db.settings import Settings
from tools.pages.marks import DOCS, between

BEGIN = "<!-- written by `python -m tools.pages` from db/settings.py -->"


def table() -> str:
    """A row for each setting, in the order of the code."""
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | {_shown(field.default)} | {meaning} |")
    return "\n".join(rows)


def _shown(default: Any) -> str:
    value = default.get_secret_value() if isinstance(default, SecretStr) else default
    return "" if value is None else f"`{value}`"


def page() -> str:
    """The text of docs/settings.md with a current table."""
    return between((DOCS / "settings.md").read_text("utf-8"), BEGIN, table())
