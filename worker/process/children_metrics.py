"""The metrics of a worker's children, served by their parent.

The children are processes of their own, which come and go and may be killed. Each writes into a
file in a folder that the parent makes (prometheus_client's multiprocess mode), and the parent adds
the files up when it is asked. So the counts of a child that was killed stay.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from imagemill.db.process.metrics_page import serve_metrics
from imagemill.db.settings import Settings
from imagemill.worker.process.gpus import GpuCollector


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


def serve_folder(folder: Path, settings: Settings) -> Callable[[], None]:
    """Serve what the children write into the folder; the result ends it.

    Raises `SettingsError` if nobody can listen.
    """
    registry = CollectorRegistry()
    registry.register(ChildrenCollector(folder))
    registry.register(GpuCollector())
    return serve_metrics(registry, settings)
