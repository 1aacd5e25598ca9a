"""A shift on the bench: one engine's work on one group, driven step by step by a test."""

from collections.abc import Callable
from pathlib import Path

from imagemill.db.queries.work.claims import GroupChoice
from imagemill.db.queries.work.shifts import Orders
from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from imagemill.worker.engine.recorded_engine import RecordedEngine
from imagemill.worker.shifts.group_run import GroupRun
from imagemill.worker.shifts.lease import Lease
from imagemill.worker.shifts.leased_images import LeasedImages
from imagemill.worker.shifts.limits import RenderLimits
from imagemill.worker.shifts.recorder import Recorder
from tests.helpers.fake_engine import FakeEngine
from tests.helpers.mill import DIGEST, POLICY, Mill, spec


class Bench:
    """A shift on the bench: its lease has no thread, so the test gives the orders."""

    def __init__(self, mill: Mill, folder: Path) -> None:
        folder.mkdir()
        self.mill = mill
        self.lease = Lease(
            database=mill.database,
            shift_id=mill.shift(),
            lease_seconds=60,
            heartbeat_seconds=5,
            hang_seconds=60,
        )
        self.leased_images = LeasedImages(
            database=mill.database,
            lease=self.lease,
            route="default",
            policy=POLICY,
            limits=RenderLimits.from_settings(Settings()),
        )
        self.recorder = Recorder(leased_images=self.leased_images, storage=FolderStorage(folder))

    def run(
        self,
        *,
        engine: FakeEngine | None = None,
        recorded: bool = False,
        must_stop: Callable[[], bool] = lambda: False,
    ) -> "BenchRun":
        group = spec("any").group()
        self.engine = engine or FakeEngine(group)
        choice = GroupChoice(
            id=self.mill.group_of(DIGEST),
            key=spec("any").group_key(),
            model_name="any",
            document=group,
        )
        run = GroupRun(
            engine=RecordedEngine(self.engine) if recorded else self.engine,
            leased_images=self.leased_images,
            recorder=self.recorder,
            choice=choice,
        )
        return BenchRun(run, must_stop)

    def order(self, *stopped: int) -> None:
        self.lease._orders = Orders(draining=False, stopped_jobs=frozenset(stopped))


class BenchRun:
    """A run, driven as a shift drives it: one step, then the question whether to stop."""

    def __init__(self, run: GroupRun, must_stop: Callable[[], bool]) -> None:
        self._run = run
        self._must_stop = must_stop

    @property
    def failed(self) -> int:
        return self._run.failed

    def work(self) -> int:
        with self._run as run:
            while not self._must_stop() and run.advance():
                pass
        return run.claimed
