"""docs/tables.md is what `python -m tools.tables` writes, and docs/database.md names each table."""

from imagemill.db.tables import Base
from tests.helpers.places import ROOT
from tools.tables import PAGE, page


def test_the_page_is_current():
    assert PAGE.read_text("utf-8") == page(), "run `python -m tools.tables`"


def test_every_table_says_what_grows_with_what():
    listed = (ROOT / "docs" / "database.md").read_text("utf-8").partition("\n## Tables\n")[2]
    listed = listed.partition("\n## ")[0]
    assert [name for name in sorted(Base.metadata.tables) if f"`{name}`" not in listed] == []
