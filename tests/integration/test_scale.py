"""`benchmarks/scale`: a short run of each part, on real servers."""

import json
from pathlib import Path

from benchmarks.scale.__main__ import main

SHORT = (
    *("--workers", "4", "--processes", "1", "--slots", "4", "--rate", "20"),
    *("--seconds", "1", "--warm-up", "0.2", "--statements"),
    *("--sizes", "100,400", "--claims", "4", "--rows", "48"),
)


def test_every_part_measures_and_the_books_balance(tmp_path: Path, capsys) -> None:
    file = tmp_path / "bench" / "scale.json"
    assert main([*SHORT, "--out", str(file)]) == 0
    found = json.loads(file.read_text())

    fleet = found["throughput"]
    assert fleet["images_per_second"] > 0
    assert fleet["violations"] == []
    assert fleet["counters_exact"] is True
    assert fleet["done"] == fleet["done_by_workers"] > 0
    assert (fleet["lease_expiries"], fleet["failed_shifts"], fleet["dead"]) == (0, 0, 0)
    assert sum(fleet["shares"].values()) > 0.99
    assert fleet["costs"][0]["calls"] > 0

    sizes = found["claims"]["sizes"]
    assert [size["rows"] for size in sizes] == [100, 400]
    assert all(size["median_ms"] > 0 for size in sizes)

    stored = found["bytes"]
    assert (stored["done"], stored["violations"]) == (48, [])
    assert {"images", "rows", "objects", "attempts"} <= {t["table"] for t in stored["tables"]}

    capsys.readouterr()
    assert main([*SHORT, "--out", str(file)]) == 0
    assert capsys.readouterr().out.count("is in") == 3, "parts that are there are left out"
    assert json.loads(file.read_text())["throughput"] == fleet
