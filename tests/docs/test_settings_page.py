"""docs/settings.md, whose table `python -m tools.pages` writes, leaves nothing unsaid."""

from imagemill.db.settings import Settings


def test_every_setting_says_what_it_means():
    silent = [name for name, field in Settings.model_fields.items() if not field.description]
    assert silent == []
