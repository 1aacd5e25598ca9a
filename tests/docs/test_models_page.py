"""docs/models.md, docs/gpu-box.md: every registry file they show is one that is read."""

import re
from pathlib import Path

import pytest

from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from tests.helpers.places import ROOT

PAGES = [ROOT / "docs" / name for name in ("models.md", "gpu-box.md")]
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_a_registry_on_the_page_is_read(block: str, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(block)
    registry = load_registry(Settings.load(models=file))
    named = set(re.findall(r"^\[models\.([\w-]+)", block, re.M))
    assert named <= set(registry.models)
    added = (registry.adapters, registry.controlnets, registry.ip_adapters)
    assert len(registry.models) + sum(map(len, added)) > 1
