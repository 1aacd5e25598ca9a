"""The machine's GPUs as the NVIDIA driver's own library (NVML) describes them, without torch."""

import logging
from collections.abc import Iterator

import pynvml
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)


def gpu_families() -> dict[str, GaugeMetricFamily]:
    """The metrics of GPUs, without samples; `gpu` is the driver's index, not torch's."""
    labels = ("gpu", "name")
    return {
        family.name: family
        for family in (
            GaugeMetricFamily(
                "imagemill_gpu_memory_used_bytes",
                "Memory of the GPU in use, by any process.",
                labels=labels,
            ),
            GaugeMetricFamily(
                "imagemill_gpu_memory_size_bytes", "Memory of the GPU in all.", labels=labels
            ),
            GaugeMetricFamily(
                "imagemill_gpu_busy_ratio",
                "The part of the driver's last sample period in which a kernel ran.",
                labels=labels,
            ),
        )
    }


class GpuCollector(Collector):
    """Reads every GPU at each scrape. A machine without the driver has no such metrics."""

    def __init__(self) -> None:
        self._there = True
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self._there = False
            log.info("no metrics of GPUs: %s", error)

    def describe(self) -> Iterator[Metric]:
        """The families, without reading anything."""
        yield from gpu_families().values()

    def collect(self) -> Iterator[Metric]:
        """One sample a GPU. What a GPU does not tell (MIG, drivers) is left out."""
        if not self._there:
            return
        families = gpu_families()
        for index in range(_count()):
            for name, labels, value in _read(index):
                families[name].add_metric(labels, value)
        yield from families.values()


def _count() -> int:
    try:
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def _read(index: int) -> Iterator[tuple[str, tuple[str, str], float]]:
    try:
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        labels = (str(index), str(pynvml.nvmlDeviceGetName(gpu)))
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        yield "imagemill_gpu_memory_used_bytes", labels, float(memory.used)
        yield "imagemill_gpu_memory_size_bytes", labels, float(memory.total)
        busy = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
        yield "imagemill_gpu_busy_ratio", labels, busy / 100
    except pynvml.NVMLError as error:
        log.debug("GPU %s: %s", index, error)
