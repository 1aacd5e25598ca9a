"""imagemill as a whole: a database, a broker, a folder, and a worker with a process for each core.

What is timed begins with the manifest's file and ends with the last committed image: reading and
submitting, waking, claiming, rendering, encoding, storing and recording.
"""

import os
import signal
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from sqlalchemy import func, select

from benchmarks.peers import manifests
from benchmarks.peers.manifests import Request
from imagemill.db.clock import now
from imagemill.db.database import Database
from imagemill.db.queries.tallies import count_images
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.db.tables import Attempt, Image, Shift, Worker
from imagemill.scheduler_jobs.dispatcher import ROUND_SECONDS, Dispatcher
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.ports import answers, free_ports
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from imagemill.scheduler_jobs.submit.submission import submit

_LOOK_SECONDS = 0.25
_READY_SECONDS = 300
_DRAIN_SECONDS = 30
_FILL = "imagemill_batch_fill_ratio_sum "


class MillPeer:
    """The system, as long as the block lasts; every child of the worker has loaded the model.

    `url` is an empty database, `broker` an empty broker's.
    """

    def __init__(self, url: str, broker: str, folder: Path, *, slots: int, processes: int) -> None:
        self._slots = slots
        self._processes = processes
        self._folder = folder
        self._port = free_ports(1)[0]
        self._settings = Settings.load(
            database_url=url,
            broker_url=broker,
            storage_url=str(folder / "objects"),
            slots=slots,
            children=processes,
            device="cpu",
            metrics_port=self._port,
        )
        self._database = Database(url)
        self._jobs = 0

    def __enter__(self) -> Self:
        migrate(self._database)
        self._dispatcher = Dispatcher(self._database, self._settings)
        self._worker = TetheredProcess(
            [sys.executable, "-m", "imagemill", "worker"],
            environment={**os.environ, **self._settings.environment(), "OMP_NUM_THREADS": "1"},
            log=self._folder / "worker.log",
            death_signal=signal.SIGKILL,
        )
        self._warm_up()
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.stop(seconds=_DRAIN_SECONDS)
        self._database.close()

    def render(self, rows: Sequence[Request]) -> tuple[float, int]:
        """Submit the rows and wait until all are done; the seconds, and the U-Net's rows.

        The seconds are the database's. Rows of empty slots are not counted.
        """
        self._jobs += 1
        file = self._folder / f"manifest-{self._jobs}.csv"
        manifests.write(rows, file)
        fill = self._fill()
        with self._database.reading() as session:
            started = session.scalar(select(now()))
        request = SubmissionRequest(manifest=str(file))
        job = submit(request, settings=self._settings, database=self._database)
        self._wait(job.job_id)
        with self._database.reading() as session:
            finished = session.scalar(
                select(func.max(Attempt.at))
                .join(Image, Image.id == Attempt.image_id)
                .where(Image.job_id == job.job_id, Attempt.event == "done")
            )
        assert started is not None
        assert finished is not None, "nothing was rendered: all of it was there before"
        # Guided images take two rows of the U-Net.
        row_forwards = round(2 * self._slots * (self._fill() - fill))
        return (finished - started).total_seconds(), row_forwards

    def _wait(self, job_id: int) -> None:
        next_round = 0.0
        while True:
            if time.monotonic() >= next_round:
                self._dispatcher.run_once()
                next_round = time.monotonic() + ROUND_SECONDS
            with self._database.reading() as session:
                counts = count_images(session, [job_id])[job_id]
            if counts.dead:
                raise RuntimeError(f"{counts.dead} images are dead: see {self._folder}/worker.log")
            if counts.done == counts.requested:
                return
            if self._worker.poll() is not None:
                raise RuntimeError(f"the worker has ended: see {self._folder}/worker.log")
            time.sleep(_LOOK_SECONDS)

    def _warm_up(self) -> None:
        """Render until every child has had a shift: then each has loaded the model."""
        give_up = time.monotonic() + _READY_SECONDS
        while not answers(self._port) and time.monotonic() < give_up:
            time.sleep(_LOOK_SECONDS)
        number = 0
        while time.monotonic() < give_up:
            number += 1
            rows = manifests.in_round(manifests.uniform(4 * self._slots), -number)
            self.render([Request(**{**vars(row), "seed": 2**40 + row.seed}) for row in rows])
            with self._database.reading() as session:
                at_work = (
                    select(func.count(Worker.id.distinct()))
                    .join(Shift, Shift.worker_id == Worker.id)
                    .join(Attempt, Attempt.shift_id == Shift.id)
                )
                if session.scalar(at_work) == self._processes:
                    return
        raise RuntimeError("not every child of the worker has rendered something")

    def _fill(self) -> float:
        """The sum of the filled parts of all denoiser calls so far, from the worker's metrics."""
        url = f"http://127.0.0.1:{self._port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        return sum(
            float(line.removeprefix(_FILL)) for line in text.splitlines() if line.startswith(_FILL)
        )
