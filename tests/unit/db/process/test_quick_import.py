"""Importing large modules in less time."""

import gc
import sys

import pytest

from imagemill.db.process.quick_import import quick_import


@pytest.fixture(autouse=True)
def _unfrozen():
    yield
    gc.unfreeze()


def test_nothing_is_collected_while_a_module_is_imported_and_again_afterwards(
    tmp_path, monkeypatch
):
    (tmp_path / "while_imported.py").write_text("import gc\nCOLLECTS = gc.isenabled()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert quick_import("while_imported").COLLECTS is False
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0, "what was imported is not looked at later either"
    monkeypatch.delitem(sys.modules, "while_imported")


def test_a_module_that_is_not_there_leaves_collection_on():
    with pytest.raises(ModuleNotFoundError):
        quick_import("imagemill.no_such_module")
    assert gc.isenabled()
