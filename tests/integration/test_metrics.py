"""`/metrics` of real processes: a dispatcher, a worker whose child is killed, and Prometheus."""

import json
import os
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from imagemill.scheduler_jobs.local.ports import free_ports
from tests.helpers.deploy.metrics import scrape, series_names, value
from tests.helpers.places import ROOT
from tests.integration.workers import Plant, children, command_of, eventually, planted

SETTINGS = {
    "heartbeat_seconds": "0.3",
    "retry_seconds": "0",
    "slots": "2",
}


@pytest.fixture
def plant(migrated_url: str, broker_url: str, tmp_path: Path) -> Iterator[Plant]:
    with planted(migrated_url, tmp_path, broker_url=broker_url, **SETTINGS) as plant:
        yield plant


def test_what_was_counted_outlives_the_children_that_counted_it(plant: Plant) -> None:
    own, fleet = free_ports(2)
    plant.environment["IMAGEMILL_METRICS_PORT"] = str(fleet)
    plant.dispatcher()
    worker = plant.worker(metrics_port=str(own))
    assert eventually(lambda: "metrics are at" in worker.said), worker.said
    assert eventually(lambda: reads(fleet)), plant.logs
    first = plant.mill.load("first", ["a", "b", "c", "nan d"])
    assert plant.finishes(first), plant.logs
    assert eventually(lambda: recorded(own) == 4), scrape(own)
    found = scrape(own)
    assert value(found, "imagemill_worker_images_total", outcome="nan") == 1
    for stage in ("claim", "encode", "store", "commit", "render"):
        assert value(found, "imagemill_stage_seconds_count", stage=stage) > 0, stage
    assert value(found, "imagemill_batch_fill_ratio_count") > 0
    assert value(found, "imagemill_stored_bytes_total") == stored_bytes(plant)
    for child in children(worker.pid):  # one renders; billiard's helper is not started again
        if "_tracker" not in command_of(child):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    second = plant.mill.load("second", ["e", "f", "bad g"])
    assert plant.finishes(second), plant.logs
    assert eventually(lambda: recorded(own) == 6), scrape(own)
    failures = "imagemill_worker_failures_total"
    assert eventually(lambda: value(scrape(own), failures, state="dead") == 1), scrape(own)
    found = scrape(own)
    assert eventually(lambda: value(scrape(fleet), "imagemill_images_total", route="default") == 6)
    everything = scrape(fleet)
    assert value(everything, "imagemill_rounds_total") > 0
    assert {name for name, _ in (*found, *everything)} <= series_names()
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0


def test_prometheus_reads_both(plant: Plant, tmp_path: Path) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus here (Debian: apt-get install prometheus)")
    own, fleet, port = free_ports(3)
    plant.mill.load("job", ["a", "b", "slow c"], route="other")
    plant.environment["IMAGEMILL_METRICS_PORT"] = str(fleet)
    plant.dispatcher()
    # A route of its own: the helper that loads jobs is a worker too, on the route `default`.
    plant.worker(metrics_port=str(own), route="idlers")
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{ROOT / 'deploy' / 'prometheus' / 'alerts.yml'}]\n"
        "scrape_configs:\n- job_name: imagemill\n  static_configs:\n"
        f"  - targets: ['127.0.0.1:{own}', '127.0.0.1:{fleet}']\n"
    )
    process = subprocess.Popen(
        [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert eventually(lambda: asked(port, "sum(up)") == 2), plant.logs
        assert eventually(lambda: asked(port, "sum(imagemill_backlog_images)") == 3)
        assert eventually(lambda: (asked(port, "max(imagemill_rounds_total)") or 0) > 0)
        idlers = 'sum(imagemill_workers{route="idlers",state="idle"})'
        assert eventually(lambda: asked(port, idlers) == 1), plant.logs
        assert eventually(lambda: healths(port) == ["ok"] * 10), healths(port)
    finally:
        process.kill()
        process.wait()


def reads(port: int) -> bool:
    try:
        return value(scrape(port), "imagemill_database_up") == 1
    except OSError:
        return False


def recorded(port: int) -> float:
    try:
        return value(scrape(port), "imagemill_worker_images_total")
    except OSError:
        return -1


def stored_bytes(plant: Plant) -> int:
    folder = Path(plant.environment["IMAGEMILL_STORAGE_URL"])
    return sum(file.stat().st_size for file in folder.rglob("*.png"))


def answer(port: int, what: str, **query: str) -> dict:
    url = f"http://127.0.0.1:{port}/api/v1/{what}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=60) as page:
        found: dict = json.load(page)["data"]
    return found


def healths(port: int) -> list[str]:
    """How each alert's rule fares."""
    try:
        groups = answer(port, "rules")["groups"]
    except OSError:
        return []
    return [rule["health"] for group in groups for rule in group["rules"]]


def asked(port: int, query: str) -> float | None:
    """The one number of an instant query; None if there is none yet."""
    try:
        result = answer(port, "query", query=query)["result"]
    except OSError:
        return None
    return float(result[0]["value"][1]) if result else None
