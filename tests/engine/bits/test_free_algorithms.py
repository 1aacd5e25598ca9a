"""`reproducible = false` frees algorithms, and everything that speaks of bits says so."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sqlalchemy import select

from imagemill.db.database import Database
from imagemill.db.queries.work.claims import GroupChoice
from imagemill.db.settings import Settings
from imagemill.db.tables import Environment
from imagemill.worker.cli.models import certify as certify_command
from imagemill.worker.cli.reproduce import report
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.files.records import Pixels, pixels_sha256
from imagemill.worker.models import environment
from imagemill.worker.models.device import choose_algorithms
from imagemill.worker.models.device_memory import tuning_digest
from imagemill.worker.models.model import Model
from imagemill.worker.reproducibility.certificate import certify
from imagemill.worker.reproducibility.certificate_report import NOTHING_PROMISED
from imagemill.worker.reproducibility.certificate_report import report as report_certificates
from imagemill.worker.reproducibility.reproduce import Sample
from imagemill.worker.shifts.agreements import Agreements
from tests.engine.rendering import pixels_of, render, small_spec_for
from tests.helpers.template import migrate_quickly

_FLAGS = {
    "deterministic_algorithms": True,
    "cudnn_deterministic": True,
    "cudnn_benchmark": False,
    "cudnn_tf32": False,
    "matmul_tf32": False,
    "cublas_workspace": ":16:8",
}
"""The switches that every environment on a CPU has named since there are environments."""


@pytest.fixture(autouse=True)
def _algorithms_as_before(
    settings: Settings, shapes64: Model, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    # Noted here, so that what the test's own settings choose is forgotten after it.
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.delenv("CUBLASLT_WORKSPACE_SIZE", raising=False)
    yield
    monkeypatch.undo()
    choose_algorithms(settings)


def _environment(model: Model, settings: Settings) -> environment.Environment:
    choose_algorithms(settings)
    return open_engine(model, small_spec_for(model).group(), settings, 2).environment


@pytest.mark.parametrize("workspace", [":16:8", ":4096:8"])
def test_environments_of_a_cpu_keep_their_identity(
    shapes64: Model, settings: Settings, workspace: str
) -> None:
    chosen = settings.model_copy(update={"cublas_workspace": workspace})
    document = _environment(shapes64, chosen).document()
    assert document["flags"] == _FLAGS
    assert "reproducible" not in document


def test_a_free_environment_is_another_one_and_says_so(shapes64: Model, settings: Settings) -> None:
    free = settings.model_copy(update={"reproducible": False, "dtype": "auto"})
    usual, chosen = _environment(shapes64, settings), _environment(shapes64, free)
    assert chosen.free
    assert not usual.free
    assert chosen.document()["reproducible"] is False
    assert chosen.fingerprint() != usual.fingerprint()
    assert torch.backends.cudnn.benchmark
    assert torch.backends.cuda.matmul.allow_tf32
    choose_algorithms(free.model_copy(update={"dtype": "fp32"}))
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_certificate_of_a_free_environment_promises_nothing(
    shapes64: Model, settings: Settings
) -> None:
    choose_algorithms(settings.model_copy(update={"reproducible": False}))
    group = small_spec_for(shapes64).group()
    verdict = certify(open_engine(shapes64, group, settings, 2), group, model_name="shapes64")
    assert verdict.promise == "nothing"
    assert NOTHING_PROMISED in report_certificates([("free", verdict)])


def test_the_command_says_that_nothing_is_promised() -> None:
    variables = {"IMAGEMILL_DEVICE": "cpu", "IMAGEMILL_REPRODUCIBLE": "false"}
    arguments = ["--size", "32x32", "--slots", "2", "--rows", "2", "--rounds", "1"]
    done = CliRunner().invoke(certify_command, arguments, env=variables)
    assert done.exit_code == 0, done.output
    assert NOTHING_PROMISED in done.output


def test_reproducing_uses_the_algorithms_of_then_and_fails_only_where_bits_were_promised(
    shapes64: Model, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    free = settings.model_copy(update={"reproducible": False})
    samples = [
        sample
        for name, then in (("usual", settings), ("free", free))
        for sample in _samples(shapes64, then, name)
    ]
    usual, other_usual, same, other = samples
    assert report([usual, same, other], settings, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["usual: identical", "free: identical"]
    assert "free, changed: different, PSNR" in lines[2]
    assert "in the same environment" in lines[2]
    assert lines[2].endswith("reproducible = false, so no bits were promised")
    assert not report([other_usual], settings, as_json=False)


def _samples(model: Model, settings: Settings, name: str) -> list[Sample]:
    """A picture rendered now, and the same one as if its bits had been others."""
    choose_algorithms(settings)
    spec = small_spec_for(model, steps=2)
    engine = open_engine(model, spec.group(), settings, 2)
    pixels = pixels_of(render(engine, [spec])[0])

    def sample(title: str, stored: Pixels) -> Sample:
        return Sample(
            name=title,
            spec=spec,
            environment=engine.environment.document(),
            pixels_sha256=pixels_sha256(stored),
            read=lambda: stored,
        )

    return [sample(name, pixels), sample(f"{name}, changed", pixels ^ np.uint8(1))]


@pytest.mark.parametrize("reproducible", [True, False])
def test_workers_certify_only_where_bits_are_promised(
    shapes64: Model, settings: Settings, tmp_path: Path, reproducible: bool
) -> None:
    here = Settings.for_home(tmp_path, **settings.model_dump(include={"device", "dtype"}))
    choose_algorithms(here.model_copy(update={"reproducible": reproducible}))
    database = Database.from_settings(here)
    migrate_quickly(database)
    group = small_spec_for(shapes64).group()
    engine = open_engine(shapes64, group, here, 2)
    choice = GroupChoice(id=1, key="any", model_name="shapes64", document=group)
    Agreements(database, device_class="cpu", settings=here).certify(choice, engine)
    with database.reading() as session:
        certificates = session.scalars(select(Environment.certificate)).all()
    database.close()
    assert [each is not None for each in certificates] == ([True] if reproducible else [])


def test_a_new_database_gets_the_certificate_that_the_machine_remembers(
    shapes64: Model, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`imagemill run` has a database for each folder, and the first picture waits for the test."""
    group = small_spec_for(shapes64).group()
    choice = GroupChoice(id=1, key="any", model_name="shapes64", document=group)

    def certified(home: Path) -> dict[str, object] | None:
        here = Settings.for_home(
            home,
            certificates=tmp_path / "certificates",
            **settings.model_dump(include={"device", "dtype"}),
        )
        home.mkdir()
        database = Database.from_settings(here)
        migrate_quickly(database)
        choose_algorithms(here)
        engine = open_engine(shapes64, group, here, 2)
        Agreements(database, device_class="cpu", settings=here).certify(choice, engine)
        with database.reading() as session:
            found = session.scalars(select(Environment.certificate)).one()
        database.close()
        return found

    first = certified(tmp_path / "first")
    assert first is not None
    monkeypatch.setattr(
        "imagemill.worker.reproducibility.certificate.certify",
        lambda *_, **__: pytest.fail("it is known"),
    )
    assert certified(tmp_path / "second") == first


def test_what_models_need_of_memory_is_measured_again(settings: Settings, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    free = settings.model_copy(update={"reproducible": False})
    larger = settings.model_copy(update={"cublas_workspace": ":4096:8"})
    assert len({tuning_digest(each, cpu) for each in (settings, free, larger)}) == 3
