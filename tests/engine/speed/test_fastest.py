"""`dtype = "fastest"`: bf16 on a CPU where a trial finds it faster, agreed on by all workers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagemill.db.database import Database
from imagemill.db.errors import RenderError
from imagemill.db.models.registry import ModelEntry, load_registry
from imagemill.db.queries.work.claims import GroupChoice
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from imagemill.worker.cli.reproduce import report
from imagemill.worker.engine import Engine, fastest_precision
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.fastest_precision import Trial, kind_of_processor, try_precisions
from imagemill.worker.files.records import pixels_sha256
from imagemill.worker.models import device
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from imagemill.worker.reproducibility import certificate
from imagemill.worker.reproducibility.reproduce import Sample
from imagemill.worker.shifts.agreements import Agreements
from imagemill.worker.shifts.model_shelf import ModelShelf
from tests.engine.rendering import pixels_of, render, spec_for
from tools.parity.oracle import Oracle, worst_difference

_FASTER = Trial(fp32_seconds=1.5, bf16_seconds=1.0)
_SLOWER = Trial(fp32_seconds=1.0, bf16_seconds=1.0)


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    return Settings.for_home(tmp_path, device="cpu", dtype="fastest", threads=1, slots=2)


@pytest.fixture
def database(chosen: Settings) -> Iterator[Database]:
    database = Database.from_settings(chosen)
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def entry(settings: Settings) -> ModelEntry:
    return load_registry(settings).find("shapes64")


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with instructions for bf16, whatever the real one has."""
    monkeypatch.setattr(fastest_precision, "bf16_instructions", lambda: "amx")


def _found(monkeypatch: pytest.MonkeyPatch, trial: Trial | RenderError) -> list[str]:
    """Let trials end so; returns a list that gets the name of each model that is tried."""
    tried: list[str] = []

    def try_it(entry: ModelEntry, _: Settings) -> Trial:
        tried.append(entry.name)
        if isinstance(trial, RenderError):
            raise trial
        return trial

    monkeypatch.setattr(fastest_precision, "try_precisions", try_it)
    return tried


def test_bf16_must_be_clearly_faster() -> None:
    assert _FASTER.fastest == "bf16"
    assert _SLOWER.fastest == "fp32"
    assert Trial(fp32_seconds=1.05, bf16_seconds=1.0).fastest == "fp32"


def test_only_where_it_is_asked_for_and_the_processor_can(
    chosen: Settings, able: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = kind_of_processor(chosen, "fp16")
    assert kind is not None
    assert kind.endswith(", amx")
    assert kind_of_processor(chosen, "bf16") is None
    assert kind_of_processor(chosen.model_copy(update={"dtype": "auto"}), None) is None
    monkeypatch.setattr(fastest_precision, "bf16_instructions", lambda: None)
    assert kind_of_processor(chosen, None) is None


def test_the_answer_of_the_first_worker_counts_for_all(
    chosen: Settings,
    database: Database,
    entry: ModelEntry,
    able: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = (Agreements(database, device_class="cpu", settings=chosen) for _ in range(2))
    tried = _found(monkeypatch, _FASTER)
    assert one.precision(entry) == "bf16"
    _found(monkeypatch, _SLOWER)
    assert other.precision(entry) == "bf16"
    assert tried == ["shapes64"]
    # Another kind of processor finds out for itself.
    monkeypatch.setattr(fastest_precision, "bf16_instructions", lambda: "avx512_bf16")
    assert one.precision(entry) == "fp32"


def test_a_model_that_cannot_be_tried_stays_in_fp32(
    chosen: Settings,
    database: Database,
    entry: ModelEntry,
    able: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = _found(monkeypatch, RenderError("it needs a picture"))
    agreements = Agreements(database, device_class="cpu", settings=chosen)
    assert agreements.precision(entry) is None
    assert agreements.precision(entry) is None
    assert len(tried) == 2


def test_a_real_trial_of_both(
    chosen: Settings, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastest_precision, "_ROUNDS", 1)
    trial = try_precisions(entry, chosen)
    assert trial.fp32_seconds > 0
    assert trial.bf16_seconds > 0


def test_pictures_say_their_precision_and_are_reproduced_in_it(
    chosen: Settings,
    database: Database,
    able: None,
    monkeypatch: pytest.MonkeyPatch,
    shapes64: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _found(monkeypatch, _FASTER)
    agreements = Agreements(database, device_class="cpu", settings=chosen)
    # A certificate is not what this test is about.
    monkeypatch.setattr(agreements, "certify", lambda *_: None)
    shelf = ModelShelf(chosen, agreements, FolderStorage(tmp_path / "objects"))
    spec = spec_for(shapes64, steps=2)
    choice = GroupChoice(id=1, key="any", model_name="shapes64", document=spec.group())
    engine = shelf.engine(choice)
    assert engine.environment.document()["dtype"] == "bf16"

    pixels = pixels_of(render(engine, [spec])[0])
    sample = Sample(
        name="picture",
        spec=spec,
        environment=engine.environment.document(),
        pixels_sha256=pixels_sha256(pixels),
        read=lambda: pixels,
    )
    for dtype in ("auto", "fastest"):
        assert report([sample], chosen.model_copy(update={"dtype": dtype}), as_json=False)
        assert capsys.readouterr().out.startswith("picture: identical")
    report([sample], chosen.model_copy(update={"dtype": "fp32"}), as_json=False)
    assert "dtype was bf16, is fp32" in capsys.readouterr().out


def test_a_certificate_says_in_which_precision(
    chosen: Settings, able: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "try_precisions", lambda *_: _FASTER)
    certified: list[str] = []

    def certify(engine: Engine, *_: Any, **__: Any) -> None:
        certified.append(engine.environment.document()["dtype"])

    monkeypatch.setattr(certificate, "certify", certify)
    verdicts = certificate.certify_model(chosen, "shapes64", size=None, slots=2, rows=2, rounds=1)
    assert certified == ["bf16", "bf16"]
    assert [title for title, _ in verdicts] == [
        f"shapes64, 64x64, {guidance} guidance, in bf16" for guidance in ("with", "without")
    ]


def test_in_bf16_pictures_have_the_bits_of_diffusers_in_bf16(
    entry: ModelEntry, settings: Settings
) -> None:
    model = load_model(entry, settings=settings, precision="bf16")
    samplers = ("ddim", "euler_a", "dpmpp_2m", "unipc")
    specs = [spec_for(model, seed=2, steps=3, sampler=sampler) for sampler in samplers]
    engine = open_engine(model, specs[0].group(), settings, 4)
    oracle = Oracle(model)
    for spec, result in zip(specs, render(engine, specs), strict=True):
        assert worst_difference(pixels_of(result), oracle.same_shape(spec, slots=4)) == 0


def test_doctor_says_that_a_trial_decides(
    chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "bf16_instructions", lambda: "amx")
    assert "fp32 or bf16 (amx), as a trial finds" in device.describe(chosen)
    monkeypatch.setattr(device, "bf16_instructions", lambda: None)
    assert device.describe(chosen).endswith("fp32")
