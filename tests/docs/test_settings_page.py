"""docs/settings.md lists every setting with its default."""

import re

from imagemill.db.settings import Settings
from tests.helpers.places import ROOT

PAGE = ROOT / "docs" / "settings.md"


def test_the_page_lists_every_setting_with_its_default():
    listed = dict(re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`)? ?\|", PAGE.read_text(), re.MULTILINE))
    assert set(listed) == set(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        default = field.default
        if hasattr(default, "get_secret_value"):
            default = default.get_secret_value()
        assert listed[name] == ("" if default is None else str(default)), name
