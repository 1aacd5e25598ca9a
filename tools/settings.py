"""The table of settings in docs/settings.md, written from `db/settings.py`.

python -m tools.settings        writes it between its two marks
"""

import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from imagemill.db.settings import Settings
from tools.marks import between

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

BEGIN = "<!-- written by `python -m tools.settings` from db/settings.py -->"


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
    return between(PAGE.read_text("utf-8"), BEGIN, table())


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {len(Settings.model_fields)} settings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
