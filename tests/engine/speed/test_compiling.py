"""A compiled denoiser: one graph for one shape, the same picture, another environment.

Kernels themselves are compiled in `tests/gpu`: that takes a compiler, and minutes on a CPU.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from imagemill.db.database import Database
from imagemill.db.errors import SettingsError
from imagemill.db.queries.work.claims import GroupChoice
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from imagemill.worker.engine import Engine
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.environment import Environment
from imagemill.worker.models.model import Model
from imagemill.worker.models.tuning import Tuning, check_compiler, choose_tuning, tune
from imagemill.worker.shifts import model_shelf
from imagemill.worker.shifts.agreements import Agreements
from tests.engine.rendering import CAPTIONS, pixels_of, render, spec_for
from tools.parity.oracle import worst_difference
from tools.small_models.guided import narrow

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are made as always, and run as they are: no compiler, no minutes."""
    compiling = torch.nn.Module.compile

    def with_backend(module: torch.nn.Module, **options: Any) -> None:
        compiling(module, **options, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", with_backend)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def _opened(model: Model, settings: Settings, slots: int = 2) -> Engine:
    return open_engine(model, spec_for(model).group(), settings, slots)


def _compiled(model: Model) -> Model:
    tuning = Tuning(compiled=True)
    tune(model.components, tuning, model.device)
    return replace(model, tuning=tuning)


@pytest.mark.usefixtures("traced_only")
def test_one_shape_is_one_graph_whatever_is_in_the_slots(
    shapes64: Model, settings: Settings
) -> None:
    small = narrow(shapes64)
    rows = [
        spec_for(
            small,
            sampler=sampler,
            steps=steps,
            guidance_scale=scale,
            seed=seed,
            prompt=CAPTIONS[seed],
        )
        for seed, (sampler, steps, scale) in enumerate(
            [("ddim", 3, 2.0), ("heun", 5, 7.5), ("euler_a", 4, 5.0)]
        )
    ]
    plain = _opened(small, settings)
    expected = render(plain, rows)
    engine = _opened(_compiled(small), settings)
    results = render(engine, rows)

    for result, usual in zip(results, expected, strict=True):
        assert worst_difference(pixels_of(result), pixels_of(usual)) <= 1
    # Three images in two slots, one of them alone at the end: no second graph, no break.
    assert counters["stats"]["unique_graphs"] == 1
    assert counters["frames"] == {"total": 1, "ok": 1}
    assert not counters["graph_break"]
    assert engine.environment.document()["tuning"]["compiled"] is True
    assert engine.environment.fingerprint() != plain.environment.fingerprint()


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load(compile=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SettingsError, match="no compiler no-such-compiler here") as caught:
        choose_tuning(settings, CPU)
    assert "\n" not in caught.value.message
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SettingsError, match="IMAGEMILL_COMPILE"):
        check_compiler(settings, CPU)
    with pytest.raises(SettingsError, match="IMAGEMILL_COMPILE"):
        check_compiler(settings, GPU)
    check_compiler(Settings.load(), CPU)
    check_compiler(Settings.load(), GPU)


def test_a_worker_takes_shared_kernels_before_its_first_pass_and_shares_its_own_after_it(
    shapes64: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events: list[str] = []

    class Recorder:
        def __init__(self, *_: object) -> None: ...

        def fetch(self, _: Environment) -> None:
            events.append("fetch")

        def share(self, _: Environment) -> None:
            events.append("share")

    monkeypatch.setattr(model_shelf, "SharedKernels", Recorder)
    spec = spec_for(shapes64, steps=1)
    settings = Settings.for_home(tmp_path, device="cpu", threads=1, slots=1)
    database = Database.from_settings(settings)
    migrate(database)
    agreements = Agreements(database, device_class="cpu", settings=settings)

    def certify(_: GroupChoice, engine: Engine) -> None:
        render(engine, [spec])
        events.append("pass")

    monkeypatch.setattr(agreements, "certify", certify)
    shelf = model_shelf.ModelShelf(settings, agreements, FolderStorage(tmp_path / "objects"))
    choice = GroupChoice(id=1, key="any", model_name="shapes64", document=spec.group())
    shelf.engine(choice)
    assert events == ["fetch", "pass", "share"]
    shelf.engine(choice)
    assert events == ["fetch", "pass", "share", "share"]
    database.close()
