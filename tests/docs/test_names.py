"""What the documents name is there: settings, targets of make, modules of the repository."""

import re
from importlib.util import find_spec

from imagemill.db.settings import Settings
from tests.docs.command_lines import PAGES
from tests.helpers.places import ROOT

TEXT = "\n".join(page.read_text("utf-8") for page in PAGES)
NO_SETTINGS = {"CONFIG", "COMPLETE", "FLOWER_BASIC_AUTH", "GALLERY_TOKEN", "API_KEY"}
NO_SETTINGS |= {"EVENT", "EVENT_ID", "EVENT_TYPE", "EVENT_JOB_ID"}
"""Variables that are read before there are settings, hold secrets of one command, or are given to
the command of a notification."""


def test_every_variable_is_a_setting():
    # `IMAGEMILL_*` and `IMAGEMILL_MAX_…` name several.
    named = set(re.findall(r"\bIMAGEMILL_([A-Z0-9_]*[A-Z0-9])\b(?!…)", TEXT)) - NO_SETTINGS
    assert {name for name in named if name.lower() not in Settings.model_fields} == set()


def test_every_target_of_make_is_there():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    shown = re.findall(r"(?:^|`|\$ )make ([a-z-]+)(?=[ `\n])", TEXT, re.M)
    assert len(shown) > 10
    assert set(shown) - targets == set()


def test_every_module_that_is_run_is_there():
    shown = set(re.findall(r"python -m ((?:tools|tests|benchmarks)\.[a-z0-9_.]+)\b", TEXT))
    assert len(shown) > 8
    assert {name for name in shown if find_spec(name.rstrip(".")) is None} == set()
