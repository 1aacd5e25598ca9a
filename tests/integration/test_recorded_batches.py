"""Pictures of a device that mixes its rows: rendered in recorded batches, and rendered again.

A model whose rows have a trace of each other goes the whole way: claimed, rendered, stored,
recorded, and reproduced from the database, or from the file alone.
"""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import diffusers
import pytest
from sqlalchemy import select, update

from imagemill.db.database import Database
from imagemill.db.errors import UnknownImage
from imagemill.db.models.components import weights_digest
from imagemill.db.models.registry import load_registry
from imagemill.db.queries.pictures import environments
from imagemill.db.queries.tallies import Counts
from imagemill.db.queries.work.claims import GroupChoice
from imagemill.db.queries.work.shifts import Orders
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.db.states import ImageState, Outcome
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.tables import CompositionRow, Image, Object
from imagemill.worker.cli import reproduce as reproducing
from imagemill.worker.engine import Engine
from imagemill.worker.models.device import prepare_process
from imagemill.worker.reproducibility.reproduce import Reproduction, reproduce
from imagemill.worker.shifts.agreements import Agreements
from imagemill.worker.shifts.group_run import GroupRun
from imagemill.worker.shifts.lease import Lease
from imagemill.worker.shifts.leased_images import LeasedImages
from imagemill.worker.shifts.limits import RenderLimits
from imagemill.worker.shifts.model_shelf import ModelShelf
from imagemill.worker.shifts.recorder import Recorder
from tests.engine.bits.mixing import mix_rows
from tests.helpers.mill import POLICY, Mill
from tests.helpers.template import migrate_quickly

SLOTS = 4
SAMPLERS = ("ddim", "euler_a", "heun", "dpmpp_2m_sde")


class Press:
    """One worker without a broker, whose lease has no thread: the test gives the orders."""

    def __init__(self, url: str, folder: Path, certificates: Path, batches: str) -> None:
        self.settings = Settings.load(
            database_url=url,
            storage_url=str(folder / "objects"),
            certificates=certificates,
            device="cpu",
            dtype="fp32",
            slots=SLOTS,
            batches=batches,
        )
        prepare_process(self.settings)
        self.database = Database.from_settings(self.settings)
        migrate_quickly(self.database)
        self.mill = Mill(self.database)
        self.storage = FolderStorage(folder / "objects")
        agreements = Agreements(self.database, device_class="cpu", settings=self.settings)
        self.shelf = ModelShelf(self.settings, agreements, self.storage)
        self.digest = weights_digest(load_registry(self.settings).find("shapes64"))

    def spec(self, number: int, **values: object) -> ImageSpec:
        defaults = {
            "model": "shapes64",
            "weights_digest": self.digest,
            "prompt": f"a red circle, number {number}",
            "seed": number,
            "width": 32,
            "height": 32,
            "steps": 3 + number % 3,
            "guidance_scale": 5.0,
            "sampler": SAMPLERS[number % len(SAMPLERS)],
        }
        return ImageSpec(**(defaults | values))

    def work(self, at_step: Callable[[int, Lease], bool] = lambda step, lease: False) -> Engine:
        """Render what is ready; `at_step` says when to stop, and may give orders before."""
        lease = Lease(
            database=self.database,
            shift_id=self.mill.shift(),
            lease_seconds=60,
            heartbeat_seconds=5,
            hang_seconds=60,
        )
        leased_images = LeasedImages(
            database=self.database,
            lease=lease,
            route="default",
            policy=POLICY,
            limits=RenderLimits.from_settings(self.settings),
        )
        document = self.spec(0).group()
        choice = GroupChoice(
            id=self.mill.group_of(self.digest),
            key=self.spec(0).group_key(),
            model_name="shapes64",
            document=document,
        )
        engine = self.shelf.engine(choice)
        before = engine.steps
        with Recorder(leased_images=leased_images, storage=self.storage) as recorder:
            claimed = 1
            while claimed and not at_step(engine.steps - before, lease):
                run = GroupRun(
                    engine=engine, leased_images=leased_images, recorder=recorder, choice=choice
                )
                with run:
                    while not at_step(engine.steps - before, lease) and run.advance():
                        pass
                claimed = run.claimed
            recorder.wait()
        self.mill.end(lease.shift_id)
        return engine

    def verdicts(self, *what: object) -> list[Reproduction]:
        samples = reproducing.collect(
            self.settings, what=[str(each) for each in what], job=None, sample=0
        )
        return list(reproduce(samples, self.settings))

    def done(self, job_id: int) -> list[Image]:
        return [image for image in self.mill.images(job_id) if image.state == ImageState.DONE]

    def file_of(self, image: Image) -> Path:
        with self.database.reading() as session:
            stored = session.get_one(Object, image.object_id)
        return Path(self.storage.object_uri(stored.object_key).removeprefix("file://"))

    def batches(self) -> list[list[int]]:
        """The images of every recorded batch."""
        with self.database.reading() as session:
            return sorted(session.scalars(select(CompositionRow.image_ids)))


@pytest.fixture(autouse=True)
def mixing(monkeypatch: pytest.MonkeyPatch) -> None:
    mix_rows(monkeypatch)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worker remembers that a promise holds: it is tested once for all tests here."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture
def open_press(
    sqlite_url: str, tmp_path: Path, certificates: Path
) -> Iterator[Callable[[str], Press]]:
    opened: list[Press] = []

    def press(batches: str) -> Press:
        opened.append(Press(sqlite_url, tmp_path, certificates, batches))
        return opened[-1]

    yield press
    for each in opened:
        assert each.mill.audit() == []
        each.database.close()


@pytest.fixture
def press(open_press: Callable[[str], Press]) -> Press:
    return open_press("recorded")


def test_every_picture_is_reproduced_from_the_database(press: Press) -> None:
    job = press.mill.load("job", [press.spec(n) for n in range(10)])
    press.work()
    images = press.done(job)
    assert [len(batch) for batch in press.batches()] == [4, 4, 2]
    verdicts = press.verdicts(*(image.id for image in images))
    assert [verdict.error for verdict in verdicts] == [None] * 10
    assert all(verdict.identical and verdict.same_environment for verdict in verdicts)
    # With a slot moved they would not be: who is where is what counts.
    backwards = update(CompositionRow).where(CompositionRow.id == 1)
    with press.database.reading() as session:
        first = session.get_one(CompositionRow, 1)
    press.database.run(
        lambda session: session.execute(
            backwards.values(image_ids=first.image_ids[::-1], request_keys=first.request_keys[::-1])
        )
    )
    assert not all(verdict.identical for verdict in press.verdicts(*first.image_ids))


def test_the_same_manifest_in_continuous_batches_is_not_and_the_verdict_says_so(
    open_press: Callable[[str], Press],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    press = open_press("continuous")
    job = press.mill.load("job", [press.spec(n) for n in range(10)])
    with caplog.at_level(logging.WARNING):
        engine = press.work()
    assert "depend on the batch; IMAGEMILL_BATCHES=recorded" in caplog.text
    assert press.batches() == []
    # Each still comes out, but whether with its bits depends on the others that are asked for.
    backwards = [str(image.id) for image in press.done(job)[::-1]]
    assert any(verdict.broken for verdict in press.verdicts(*backwards))
    samples = reproducing.collect(press.settings, what=backwards, job=None, sample=0)
    assert not reproducing.report(samples, press.settings, as_json=False)
    assert "bits depend on the batch; IMAGEMILL_BATCHES=recorded" in capsys.readouterr().out
    environment = _environment(press, job)
    with press.database.reading() as session:
        certificate = environments.certificate(session, environment)
    assert certificate is not None
    assert (certificate["promise"], certificate["holds"]) == ("independence", False)
    assert certificate["environment"] == engine.environment.fingerprint()


def test_recorded_batches_have_an_environment_and_a_certificate_of_their_own(
    press: Press, caplog: pytest.LogCaptureFixture
) -> None:
    job = press.mill.load("job", [press.spec(1)])
    with caplog.at_level(logging.WARNING):
        engine = press.work()
    assert "pixels" not in caplog.text
    assert engine.environment.document()["batches"] == "recorded"
    with press.database.reading() as session:
        certificate = environments.certificate(session, _environment(press, job))
    assert certificate is not None
    assert (certificate["promise"], certificate["holds"]) == ("composition", True)


def test_a_cancelled_job_takes_no_bit_of_the_others(press: Press) -> None:
    keeps = press.mill.load("keeps", [press.spec(n, steps=5) for n in (0, 1)])
    gone = press.mill.load("gone", [press.spec(n, steps=6) for n in (2, 3)])

    def cancel_after_two(step: int, lease: Lease) -> bool:
        if step == 2 and press.mill.job(gone).state == "open":
            press.mill.cancel(gone)
            lease._orders = Orders(draining=False, stopped_jobs=frozenset({gone}))
        return False

    press.work(cancel_after_two)
    assert press.mill.counts(gone) == Counts(cancelled=2)
    images = press.done(keeps)
    assert press.batches() == [[image.id for image in (*images, *press.mill.images(gone))]]
    assert all(verdict.identical for verdict in press.verdicts(*(image.id for image in images)))


def test_a_drain_in_the_middle_leaves_pictures_that_can_be_reproduced(press: Press) -> None:
    # Heun takes two calls a step: the first three end before the drain, the last one after.
    specs = [press.spec(n, sampler="ddim", steps=2 + 3 * (n == 3)) for n in range(6)]
    job = press.mill.load("job", specs)
    press.work(lambda step, lease: step >= 3)
    first = press.done(job)
    assert len(first) == 3
    assert press.mill.counts(job).ready == 3
    press.work()
    images = press.done(job)
    assert len(images) == 6
    assert [len(batch) for batch in press.batches()] == [4, 3]
    assert all(verdict.identical for verdict in press.verdicts(*(image.id for image in images)))


def test_a_nan_neighbour_is_rendered_again_with_it(press: Press) -> None:
    poison = press.spec(1, sampler="ddim", sampler_options=(("eta", 1e30),))
    job = press.mill.load("job", [press.spec(0), poison, press.spec(2), press.spec(3)])
    press.work()
    images = press.done(job)
    assert [image.outcome for image in images] == [Outcome.OK, Outcome.NAN, Outcome.OK, Outcome.OK]
    assert all(verdict.identical for verdict in press.verdicts(*(image.id for image in images)))


def test_an_image_is_in_one_batch_though_several_ask_for_it(press: Press) -> None:
    """Followers take no slot, so that the batch is filled with others."""
    same = press.spec(0)
    job = press.mill.load("job", [same, same, same, *(press.spec(n) for n in range(1, 4))])
    press.work()
    assert press.mill.counts(job).done == 6
    assert [len(batch) for batch in press.batches()] == [4]
    verdicts = press.verdicts(*(image.id for image in press.done(job)))
    assert all(verdict.identical for verdict in verdicts)


def test_a_file_alone_says_what_is_missing(
    press: Press, capsys: pytest.CaptureFixture[str]
) -> None:
    job = press.mill.load("job", [press.spec(n) for n in range(4)])
    press.work()
    files = [press.file_of(image) for image in press.done(job)]
    [*verdicts] = press.verdicts(*files)
    assert not any(verdict.identical for verdict in verdicts)
    assert all(verdict.alone and verdict.same_environment for verdict in verdicts)
    assert not any(verdict.broken for verdict in verdicts), "nothing was promised"
    samples = reproducing.collect(press.settings, what=[str(files[0])], job=None, sample=0)
    assert reproducing.report(samples, press.settings, as_json=False)
    line = capsys.readouterr().out.splitlines()[0]
    assert "in a recorded batch, and the file does not name the other images" in line
    assert reproducing.report(samples, press.settings, as_json=True)
    assert json.loads(capsys.readouterr().out.splitlines()[0])["alone"] is True


def test_an_image_that_was_alone_is_reproduced_from_its_file(press: Press) -> None:
    job = press.mill.load("job", [press.spec(0)])
    press.work()
    [verdict] = press.verdicts(press.file_of(press.done(job)[0]))
    assert verdict.identical


def test_who_is_not_in_the_database_any_more_is_named(press: Press) -> None:
    job = press.mill.load("job", [press.spec(n) for n in range(4)])
    press.work()
    one, other, *_ = press.done(job)
    edited = update(Image).where(Image.id == other.id).values(seed=999)
    press.database.run(lambda session: session.execute(edited))
    [verdict] = press.verdicts(one.id)
    assert verdict.error == (
        f"image {other.id}, which shared its batch, is not in the database any more"
    )
    assert verdict.broken
    with pytest.raises(UnknownImage):
        press.verdicts(999)
    undone = update(Image).where(Image.id == other.id).values(seed=other.seed)
    press.database.run(lambda session: session.execute(undone))


def test_a_row_that_asks_for_another_picture_by_now_is_told(press: Press) -> None:
    job = press.mill.load("job", [press.spec(0), press.spec(0), press.spec(1)])
    press.work()
    first, follower, _ = press.done(job)
    edited = update(Image).where(Image.id == follower.id).values(seed=999)
    press.database.run(lambda session: session.execute(edited))
    one, other = press.verdicts(first.id, follower.id)
    assert one.identical
    assert other.error == "its row now asks for another picture"


def test_who_can_not_be_rendered_any_more_is_told(
    press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the others would move up a slot, and come out as other pictures."""
    job = press.mill.load("job", [press.spec(n) for n in range(4)])
    press.work()
    images = press.done(job)
    monkeypatch.setattr(
        "imagemill.worker.engine.schedulers.make_scheduler",
        _without(SAMPLERS[1], _make_scheduler()),
    )
    verdicts = press.verdicts(*(image.id for image in images))
    assert {verdict.error for verdict in verdicts} == {
        "an image of its batch can't be rendered any more: no such sampler here"
    }


def test_a_batch_that_fails_does_not_keep_the_next_from_being_rendered(
    press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = press.mill.load("job", [press.spec(n) for n in range(8)])
    press.work()
    images = press.done(job)
    mixed = diffusers.UNet2DConditionModel.forward
    calls: list[int] = []

    def fail_once(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no kernel")
        return mixed(*arguments, **options)

    monkeypatch.setattr(diffusers.UNet2DConditionModel, "forward", fail_once)
    verdicts = press.verdicts(*(image.id for image in images))
    errors = sorted(verdict.error or "" for verdict in verdicts)
    assert errors == [""] * 4 + ["the forward pass failed: no kernel"] * 4
    assert sum(verdict.identical for verdict in verdicts) == 4


def _make_scheduler() -> Callable[..., object]:
    from imagemill.worker.engine.schedulers import make_scheduler

    return make_scheduler


def _without(sampler: str, make: Callable[..., object]) -> Callable[..., object]:
    from imagemill.db.errors import UsageError

    def made(name: str, *arguments: object, **options: object) -> object:
        if name == sampler:
            raise UsageError("no such sampler here")
        return make(name, *arguments, **options)

    return made


def _environment(press: Press, job_id: int) -> int:
    with press.database.reading() as session:
        query = select(Object.environment_id).join(Image, Image.object_id == Object.id)
        return session.scalars(query.where(Image.job_id == job_id)).first() or 0
