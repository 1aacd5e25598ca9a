"""A ControlNet is in memory as long as the groups that are rendered ask for it."""

from types import SimpleNamespace
from typing import Any

from imagemill.db.models.registry import Registry
from imagemill.worker.models.added_models import controlnet_of


def test_a_controlnet_stays_until_a_group_needs_none() -> None:
    net = object()
    model: Any = SimpleNamespace(controlnet=("digest", net))
    registry = Registry(models={}, adapters={})
    assert controlnet_of(model, {"controlnet": {"digest": "digest"}}, registry) is net
    assert model.controlnet == ("digest", net)
    assert controlnet_of(model, {"controlnet": None}, registry) is None
    assert model.controlnet is None
