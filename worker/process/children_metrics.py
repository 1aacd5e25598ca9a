"""The metrics of a worker's children, served by their parent.

The children are processes of their own, which come and go and may be killed. Each writes into a
file in a folder that the parent makes (prometheus_client's multiprocess mode), and the parent adds
the files up when it is asked. So the counts of a child that was killed stay.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from imagemill.db.metrics_page import serve_metrics
from imagemill.db.settings import Settings
from imagemill.worker.process.gpus import GpuCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client in the children finds the folder."""


class ChildrenCollector(Collector):
    """Adds up the files of all children, those that have ended too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def describe(self) -> Iterable[Metric]:
        """Nothing: a child decides what it measures."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The sums. A file without a byte is of a child that was killed while it made it."""
        files = [str(file) for file in self._folder.glob("*.db") if file.stat().st_size]
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]  # its gap
        return merged


def serve_children(settings: Settings) -> Callable[[], None]:
    """Serve the metrics of the children to come; the result ends it. Call it in the parent.

    Without a port in the settings it does nothing. Raises `SettingsError` if nobody can listen.
    """
    if settings.metrics_port is None:
        return lambda: None
    folder = Path(tempfile.mkdtemp(prefix="imagemill-metrics-"))
    registry = CollectorRegistry()
    registry.register(ChildrenCollector(folder))
    registry.register(GpuCollector())
    try:
        stop = serve_metrics(registry, settings)
    except BaseException:
        folder.rmdir()
        raise
    os.environ[FOLDER] = str(folder)

    def close() -> None:
        stop()
        shutil.rmtree(folder, ignore_errors=True)

    return close
