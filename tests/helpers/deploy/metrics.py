"""Every metric that a worker, a dispatcher and `serve` may have, and the pages where they do."""

import urllib.request
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from imagemill.scheduler_jobs import metrics as fleet
from imagemill.scheduler_jobs.api import metrics as http
from imagemill.worker import metrics as worker
from imagemill.worker.process.gpus import gpu_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def all_metrics() -> Iterator[Metric]:
    """The families, without samples of any meaning."""
    yield from worker.REGISTRY.collect()
    yield from gpu_families().values()
    yield from http.REGISTRY.collect()
    for counter in fleet.COUNTERS:
        yield from counter.collect()
    yield from fleet.families().values()


def series_names() -> set[str]:
    """The names that a query may use."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        metric.name + suffix
        for metric in all_metrics()
        for suffix in suffixes.get(metric.type, ("",))
    }


def scrape(port: int) -> Samples:
    """The samples of a page, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples of a name that have these labels."""
    wanted = set(labels.items())
    return sum(v for (n, found), v in samples.items() if n == name and wanted <= found)
