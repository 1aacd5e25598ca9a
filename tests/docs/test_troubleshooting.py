"""docs/troubleshooting.md: the words that it quotes are words that imagemill says."""

import re

from imagemill.db.queries.work import shifts
from tests.helpers.places import ROOT
from tools.pages.errors import error_classes

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")


def rows(section: str) -> list[str]:
    """The first cells of a section's table."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]


def source() -> str:
    """All of our code, with texts that stand over several lines joined."""
    files = [
        file for name in ("db", "scheduler_jobs", "worker") for file in (ROOT / name).rglob("*.py")
    ]
    return re.sub(r'"\s+f?"', "", "\n".join(file.read_text("utf-8") for file in files))


def test_the_lines_it_quotes_are_said():
    said = source()
    cells = rows("A command refuses") + rows("Nothing is rendered")
    quoted = [cell.strip("`") for cell in cells if re.fullmatch(r"`[^`]+`", cell)]
    quoted.remove("file:row: column: found; allowed")
    assert len(quoted) >= 10
    assert [line for line in quoted if line not in said] == []


def test_every_code_of_its_table_is_one():
    codes = {error.code for error in error_classes()} | {shifts.LOST.code}
    named = {cell.strip("`") for cell in rows("Images are dead")}
    assert len(named) >= 8
    assert named - codes == set()
