"""`benchmarks/peers`: every way does the same work on every manifest; a short run of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import manifests
from benchmarks.peers.__main__ import main


def test_every_way_computes_the_rows_that_the_manifest_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way is processes that load torch. `main` compares the U-Net's rows."""
    whole = manifests._requests

    def in_few_steps(settings: Any, **seed: int) -> list[manifests.Request]:
        return whole([(name, steps // 5, scale) for name, steps, scale in settings], **seed)

    monkeypatch.setattr(manifests, "_requests", in_few_steps)
    file = tmp_path / "peers.json"
    ways = "p0,p1-16,p2,p3-16,mill-2"
    few = ("--uniform", "2", "--mixed", "4", "--different", "0")
    assert (
        main(["--rounds", "1", "--processes", "1", "--ways", ways, *few, "--out", str(file)]) == 0
    )
    lines = json.loads(file.read_text())["warm"]
    assert {line["manifest"] for line in lines} == {"uniform", "mixed"}
    assert {"p0", "p1-16", "p2", "mill-2"} <= {line["way"] for line in lines}
    assert all(line["images_per_second"] > 0 for line in lines)


def test_the_manifests_are_what_they_are_called() -> None:
    uniform, mixed = manifests.uniform(480), manifests.mixed(300)
    different = manifests.different(300)
    assert {row.settings for row in uniform} == {("ddim", 20, 5.0)}
    assert set(Counter(row.settings for row in mixed).values()) == {3}
    assert len({row.settings for row in mixed}) == 100
    assert sum(count == 1 for count in Counter(r.settings for r in different).values()) > 200
    assert all(row.guidance_scale > 1 for row in (*uniform, *mixed, *different))
    later = manifests.in_round(mixed, 2)
    assert manifests.row_forwards(later) == manifests.row_forwards(mixed)


def test_no_two_manifests_or_rounds_ask_for_the_same_picture() -> None:
    """imagemill would find it, and compute fewer rows than the others."""
    made = (manifests.uniform(480), manifests.mixed(300), manifests.different(300))
    seeds = [row.seed for rows in made for n in range(3) for row in manifests.in_round(rows, n)]
    assert len(seeds) == len(set(seeds))
