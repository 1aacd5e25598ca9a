"""What a process's shelf measures and shares of its device's memory, and when it makes room.

The device is a CPU with the memory of a card that is not there: tensors in it are counted.
"""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from imagemill.db.database import Database
from imagemill.db.errors import OutOfMemory, RenderError
from imagemill.db.models.components import weights_digest
from imagemill.db.models.registry import load_registry
from imagemill.db.queries.fleet.memory import list_waiting_for_memory
from imagemill.db.queries.tallies import Counts
from imagemill.db.queries.work import shifts
from imagemill.db.queries.work.claims import GroupChoice
from imagemill.db.queries.work.memory_needs import Need, find_needs
from imagemill.db.settings import Settings
from imagemill.db.specs import ImageSpec
from imagemill.db.storage.folder import FolderStorage
from imagemill.worker.models.device import prepare_process
from imagemill.worker.models.device_memory import memory_of, tuning_digest
from imagemill.worker.shifts import model_shelf
from imagemill.worker.shifts.agreements import Agreements
from imagemill.worker.shifts.memory_needs import MemoryNeeds
from imagemill.worker.shifts.model_shelf import ModelShelf
from imagemill.worker.shifts.shift import AvoidedGroups
from tests.helpers.mill import Mill
from tests.helpers.template import migrate_quickly
from tests.helpers.workshop import Workshop, quick_settings

pytestmark = pytest.mark.slow

MIB = 2**20
ACTIVATIONS = 7 * MIB
"""What rendering takes above the models, says this memory."""


class PretendedMemory:
    """A card's memory. `others` are bytes that other processes hold."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.others = 0

    def available(self) -> int:
        return self.size - self.others

    def allocated(self) -> int:
        gc.collect()
        tensors = (each for each in gc.get_objects() if type(each) is torch.nn.Parameter)
        storages = (tensor.untyped_storage() for tensor in tensors)
        return sum({each.data_ptr(): each.nbytes() for each in storages}.values())

    def peak(self) -> int:
        return self.allocated() + ACTIVATIONS

    def reset_peak(self) -> None:
        pass


class Desk:
    """A shelf with two models, `shapes64` and another, and its device's memory."""

    def __init__(self, settings: Settings, mill: Mill, folder: Path) -> None:
        self.settings = settings
        self.mill = mill
        self.storage = FolderStorage(folder)
        self.put_in(200 * MIB)
        self.choices = {name: self._choice(name) for name in ("shapes64", "other")}

    def put_in(self, size: int) -> None:
        """Give the worker another card, and a shelf that has loaded nothing."""
        self.memory = PretendedMemory(size)
        self.needs = MemoryNeeds(
            self.mill.database, memory=self.memory, tuning="t" * 64, device_class="pretended"
        )
        agreements = Agreements(self.mill.database, device_class="cpu", settings=self.settings)
        self.shelf = ModelShelf(self.settings, agreements, self.storage, needs=self.needs)
        worker_id, card = self.mill.worker_id, self.needs.card
        self.mill.database.run(
            lambda session: shifts.see_worker(session, worker_id, device="cuda:0", card=card)
        )

    def _choice(self, name: str) -> GroupChoice:
        digest = weights_digest(load_registry(self.settings).find(name))
        row = ImageSpec(
            model=name,
            weights_digest=digest,
            prompt="a red circle",
            seed=1,
            width=64,
            height=64,
            steps=2,
            guidance_scale=5.0,
            sampler="ddim",
        )
        self.mill.load(name, [row])
        group = self.mill.group_of(digest)
        return GroupChoice(id=group, key=row.group_key(), model_name=name, document=row.group())

    def known(self, name: str) -> tuple[Need | None, Need | None]:
        """What is shared of the model's weights, and of its group."""
        choice = self.choices[name]
        digest = choice.document["weights_digest"]
        with self.mill.database.reading() as session:
            found = find_needs(session, tuning="t" * 64, keys=[digest, choice.key])
        return found.get(digest), found.get(choice.key)


@pytest.fixture(autouse=True, scope="module")
def nothing_older_is_counted() -> None:
    """Leave all that is there by now out of every search for tensors, and for garbage.

    After other tests that may be a million objects, and each search would take a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where workers remember that pixels do not depend on the batch: each model is tested once."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture
def desk(tmp_path: Path, sqlite_url: str, certificates: Path) -> Iterator[Desk]:
    registry = tmp_path / "models.toml"
    source = load_registry(Settings.load()).find("shapes64").source
    registry.write_text(
        f'[models.other]\nsource = "{source}"\n'
        '[models.other.parts.scheduler]\nclass = "DDIMScheduler"\n'
    )
    settings = Settings.load(
        models=registry, certificates=certificates, device="cpu", dtype="fp32", threads=1, slots=2
    )
    prepare_process(settings)
    (tmp_path / "store").mkdir()
    database = Database(sqlite_url)
    migrate_quickly(database)
    yield Desk(settings, Mill(database), tmp_path / "store")
    database.close()


def fails_first(error: Exception, times: int = 1) -> Callable[..., Any]:
    """A probe that raises so often, and then is the real one."""
    left, real = [error] * times, model_shelf.probe

    def probe(*arguments: Any) -> float:
        if left:
            raise left.pop()
        return real(*arguments)

    return probe


def test_the_first_worker_measures_a_model_and_its_group(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.shelf.engine(desk.choices["other"])
    desk.shelf.engine(desk.choices["shapes64"])
    weights, alone = desk.known("shapes64")
    assert weights is not None
    assert alone is not None
    assert 10 * MIB < weights.needed_bytes < 14 * MIB, "2.78 million parameters of 4 bytes"
    assert alone.needed_bytes == weights.needed_bytes + ACTIVATIONS, "without the other model"

    def never(*_: Any) -> float:
        raise AssertionError("it is known")

    monkeypatch.setattr(model_shelf, "probe", never)
    desk.shelf.engine(desk.choices["other"])


def test_other_models_make_room_before_a_model_counts_as_too_large(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.shelf.engine(desk.choices["other"])
    monkeypatch.setattr(model_shelf, "probe", fails_first(OutOfMemory()))
    engine = desk.shelf.engine(desk.choices["shapes64"])
    assert engine.slots == 2
    assert desk.shelf.loaded == (desk.choices["shapes64"].document["weights_digest"],)
    assert desk.known("shapes64")[1] is not None


def test_one_slot_that_does_not_fit_unloads_the_others_first(desk: Desk) -> None:
    choice = desk.choices["shapes64"]
    desk.shelf.engine(desk.choices["other"])
    desk.shelf.engine(choice)
    assert desk.shelf.shrink(choice)
    desk.settings = desk.settings.model_copy(update={"slots": 1})
    desk.shelf.engine(choice)
    assert desk.shelf.shrink(choice), "the other model was still there"
    desk.shelf.engine(choice)
    assert not desk.shelf.shrink(choice)


def test_what_does_not_fit_is_shared_by_the_size_of_the_card(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = desk.choices["shapes64"]
    monkeypatch.setattr(model_shelf, "probe", fails_first(OutOfMemory(), times=2))
    with pytest.raises(OutOfMemory):
        desk.shelf.engine(choice)
    assert desk.shelf.refuse(choice)
    weights, alone = desk.known("shapes64")
    assert weights is not None
    assert weights.too_small_bytes == 0, "it was loaded"
    assert alone == Need(needed_bytes=0, too_small_bytes=200 * MIB)
    unloaded = desk.choices["other"]
    assert desk.shelf.refuse(unloaded), "one that could not even be loaded"
    assert desk.known("other") == (Need(needed_bytes=0, too_small_bytes=200 * MIB), None)


def test_a_card_that_others_use_says_nothing_about_a_model(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.memory.others = 100 * MIB
    assert desk.shelf.refuse(desk.choices["other"])
    assert desk.known("other") == (None, None)
    assert "other processes hold memory of this card: 0.1 of 0.2 GiB are left" in caplog.text


def test_a_model_that_can_not_be_tried_is_known_by_its_weights(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_shelf, "probe", fails_first(RenderError("it needs a picture")))
    desk.shelf.engine(desk.choices["other"])
    weights, alone = desk.known("other")
    assert weights is not None
    assert alone is None


def test_a_cpu_has_no_memory_of_its_own_and_tunings_differ(desk: Desk) -> None:
    cpu = torch.device("cpu")
    assert memory_of(cpu) is None
    tiled = desk.settings.model_copy(update={"vae_tiling": True})
    halved = desk.settings.model_copy(update={"dtype": "bf16"})
    more = desk.settings.model_copy(update={"slots": 8})
    digests = {tuning_digest(each, cpu) for each in (desk.settings, tiled, halved)}
    assert len(digests) == 3
    assert tuning_digest(more, cpu) == tuning_digest(desk.settings, cpu), "B is not part of it"
    Path(str(desk.settings.models)).write_text(
        Path(str(desk.settings.models)).read_text().replace("source", 'dtype = "bf16"\nsource', 1)
    )
    assert tuning_digest(desk.settings, cpu) not in digests, "another precision of a model"


def test_images_wait_for_a_larger_card_and_are_rendered_there(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = model_shelf.probe

    def probe(*arguments: Any) -> float:
        if desk.memory.size < 300 * MIB:
            raise OutOfMemory("no room")
        return real(*arguments)

    monkeypatch.setattr(model_shelf, "probe", probe)
    workshop = Workshop(desk.mill, tmp_path / "pictures")
    workshop.settings = quick_settings(**desk.settings.model_dump(exclude_unset=True))
    workshop.shelf = desk.shelf  # type: ignore[assignment]
    workshop.shift()
    jobs = [1, 2]
    assert [workshop.counts(job) for job in jobs] == [Counts(ready=1)] * 2
    assert all(desk.mill.images(job)[0].failures == 0 for job in jobs)
    desk.put_in(200 * MIB)
    assert desk.mill.choose(worker_id=desk.mill.worker_id) is None, "another of the same size"
    with desk.mill.database.reading() as session:
        assert len(list_waiting_for_memory(session)) == 2
    desk.put_in(400 * MIB)
    workshop.shelf = desk.shelf  # type: ignore[assignment]
    workshop.avoided = AvoidedGroups()
    workshop.shift()
    assert [workshop.counts(job) for job in jobs] == [Counts(done=1)] * 2
    assert desk.mill.audit() == []
