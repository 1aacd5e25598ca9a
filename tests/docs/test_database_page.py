"""docs/database.md names each table; docs/tables.md is what `python -m tools.pages` writes."""

from imagemill.db.tables import Base
from tests.helpers.places import ROOT


def test_every_table_says_what_grows_with_what():
    listed = (ROOT / "docs" / "database.md").read_text("utf-8").partition("\n## Tables\n")[2]
    listed = listed.partition("\n## ")[0]
    assert [name for name in sorted(Base.metadata.tables) if f"`{name}`" not in listed] == []
