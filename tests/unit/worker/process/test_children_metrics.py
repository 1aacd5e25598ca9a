"""A worker's metrics: children that come, go and are killed, and machines without a GPU."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from imagemill.db.errors import SettingsError
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.local.ports import free_ports
from imagemill.worker.process.children_metrics import ChildrenCollector
from imagemill.worker.process.gpus import GpuCollector, pynvml
from imagemill.worker.process.metrics_folder import FOLDER, serve_children
from tests.helpers.deploy.metrics import scrape, value

CHILD = """
import time
from imagemill.worker import metrics
for _ in range(3):
    metrics.IMAGES.labels(model="m", outcome="ok").inc()
metrics.BATCH_FILL.observe(0.5)
print("written", flush=True)
time.sleep(600)
"""


@pytest.fixture
def free_port() -> int:
    return free_ports(1)[0]


def killed_child(folder: Path) -> None:
    """A process that measures, and is killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], env={FOLDER: str(folder)}, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n"
    child.send_signal(signal.SIGKILL)
    child.wait()


def test_a_killed_child_leaves_its_counts(tmp_path, free_port, monkeypatch):
    monkeypatch.setenv(FOLDER, "")
    stop = serve_children(Settings(metrics_port=free_port))
    folder = Path(os.environ[FOLDER])
    for _ in range(2):
        killed_child(folder)
    # A third was killed while it made its file.
    (folder / "counter_0.db").touch()
    found = scrape(free_port)
    assert value(found, "imagemill_worker_images_total", model="m", outcome="ok") == 6
    assert value(found, "imagemill_batch_fill_ratio_count") == 2
    assert value(found, "imagemill_batch_fill_ratio_bucket", le="0.375") == 0
    assert value(found, "imagemill_batch_fill_ratio_bucket", le="0.5") == 2
    stop()
    assert not folder.exists()


def test_no_port_serves_nothing_and_makes_nothing(monkeypatch):
    monkeypatch.delenv(FOLDER, raising=False)
    serve_children(Settings())()
    assert FOLDER not in os.environ


def test_a_port_in_use_is_one_line(free_port, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stop = serve_children(Settings(metrics_port=free_port))
    before = set(tmp_path.iterdir())
    with pytest.raises(SettingsError, match=f"127.0.0.1:{free_port}: Address already in use"):
        serve_children(Settings(metrics_port=free_port))
    assert set(tmp_path.iterdir()) == before
    stop()


def test_a_machine_without_the_driver_has_no_metrics_of_gpus():
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        pass
    else:
        pytest.skip("the NVIDIA driver is here")
    registry = CollectorRegistry()
    registry.register(GpuCollector())
    assert generate_latest(registry) == b""


def test_an_empty_folder_has_no_metrics(tmp_path):
    registry = CollectorRegistry()
    registry.register(ChildrenCollector(tmp_path))
    assert generate_latest(registry) == b""
