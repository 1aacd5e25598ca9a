"""Where an engine's time goes: some steps under torch's profiler, written once."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from imagemill.db.specs import ImageSpec
from imagemill.worker.engine import Engine, Failed, Rendered
from imagemill.worker.engine.wrapped_engine import WrappedEngine

log = logging.getLogger(__name__)

SKIPPED_STEPS = 5
"""Steps before the profile: they choose kernels and fill caches."""

PROFILED_STEPS = 20

_TABLE_ROWS = 40


class ProfiledEngine(WrappedEngine[Engine]):
    """An `Engine` around `inner` that profiles twenty of its steps, and what is between them.

    `trace` becomes a trace for Perfetto or chrome://tracing; beside it, with the suffix `.txt`,
    stands a table of operations by the time that they took themselves. An engine that ends before
    its twentieth step writes what there was.
    """

    def __init__(self, inner: Engine, trace: Path) -> None:
        super().__init__(inner)
        self._trace = trace
        self._seen = 0
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._profile: profile | None = profile(activities=activities)

    @property
    def busy(self) -> bool:
        """Whether the inner engine has something to do."""
        return self._inner.busy

    def room(self) -> int:
        """The inner engine's room."""
        return self._inner.room()

    def admit(self, images: Sequence[tuple[int, ImageSpec]]) -> None:
        """As the inner engine; the trace calls it `admit`."""
        with record_function("admit"):
            self._inner.admit(images)

    def step(self) -> list[Rendered | Failed]:
        """As the inner engine; the trace calls it `step`."""
        if self._profile is not None and self._seen == SKIPPED_STEPS:
            self._profile.start()
        with record_function("step"):
            ended = self._inner.step()
        self._seen += 1
        last = self._seen == SKIPPED_STEPS + PROFILED_STEPS
        if last or (self._seen > SKIPPED_STEPS and not self._inner.busy):
            self._write()
        return ended

    def cancel(self, tickets: Collection[int]) -> list[int]:
        """As the inner engine."""
        return self._inner.cancel(tickets)

    def abandon(self) -> list[int]:
        """As the inner engine; what was profiled until now is written."""
        if self._seen > SKIPPED_STEPS:
            self._write()
        return self._inner.abandon()

    def _write(self) -> None:
        if self._profile is None:
            return
        done, self._profile = self._profile, None
        done.stop()
        on_gpu = torch.cuda.is_available()
        order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        table = done.key_averages().table(sort_by=order, row_limit=_TABLE_ROWS)
        try:
            done.export_chrome_trace(str(self._trace))
            self._trace.with_suffix(".txt").write_text(table, "utf-8")
        except OSError as error:  # a full disk must not end the work
            log.warning("no profile in %s: %s", self._trace, error.strerror or error)
            return
        log.info("%s profiled steps are in %s", self._seen - SKIPPED_STEPS, self._trace)
