"""What a child imports early is whole before the child uses it."""

import time
from collections.abc import Iterator

import pytest

pytest.importorskip("torch")

from imagemill.db.settings import Settings
from imagemill.worker.models import device
from imagemill.worker.process import child
from imagemill.worker.process.presence import Presence


class _Prepared(Exception):
    """The child has come as far as to use what was imported."""


@pytest.fixture(autouse=True)
def no_thread_yet() -> Iterator[None]:
    child._early_import.cache_clear()
    yield
    child._early_import.cache_clear()


def test_a_child_waits_until_everything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers was found half imported: "module 'diffusers' has no attribute 'ModelMixin'"."""
    order = []

    def slow_import(_name: str) -> None:
        time.sleep(0.3)
        order.append("imported")

    def prepare(_settings: Settings) -> None:
        order.append("used")
        raise _Prepared

    monkeypatch.setattr(child, "quick_import", slow_import)
    monkeypatch.setattr(device, "prepare_process", prepare)
    settings = Settings.load()
    child.load_early()
    with pytest.raises(_Prepared):
        child.open_child(settings, Presence(settings))
    assert order == ["imported", "used"]
