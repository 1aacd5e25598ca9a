"""docs/settings.md has the table that `python -m tools.settings` writes."""

from imagemill.db.settings import Settings
from tools.settings import PAGE, page


def test_the_page_is_current():
    assert PAGE.read_text("utf-8") == page(), "run `python -m tools.settings`"


def test_every_setting_says_what_it_means():
    silent = [name for name, field in Settings.model_fields.items() if not field.description]
    assert silent == []
