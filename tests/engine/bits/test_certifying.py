"""The certificate: it holds here, and it does not where an engine mixes its rows."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from imagemill.db.errors import RenderError
from imagemill.db.settings import Settings
from imagemill.worker.cli.models import certify as command
from imagemill.worker.engine import Failed, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.engine.guided.engine import GuidedEngine
from imagemill.worker.engine.recorded_engine import RecordedEngine
from imagemill.worker.models.model import Model
from imagemill.worker.reproducibility.certificate import HOW_TO_KEEP_BITS, certify
from imagemill.worker.reproducibility.certificate_report import report
from tests.engine.bits.mixing import mix_rows
from tests.engine.rendering import small_spec_for

SHORT = ["--size", "32x32", "--slots", "2", "--rows", "2", "--rounds", "1"]


def test_the_short_form_holds_in_few_steps(shapes64: Model, settings: Settings) -> None:
    group = small_spec_for(shapes64).group()
    engine = open_engine(shapes64, group, settings, 4)
    verdict = certify(engine, group, model_name="shapes64")

    assert verdict.holds
    assert [check.name for check in verdict.checks] == [
        "every slot",
        "shuffled neighbours",
        "NaN neighbours",
        "two in a place",
    ]
    assert [check.compared for check in verdict.checks] == [4, 1, 1, 8]
    assert verdict.environment == engine.environment.fingerprint()
    assert engine.steps < 20
    assert not engine.busy
    assert verdict.document()["checks"][0] == {
        "name": "every slot",
        "compared": 4,
        "different": 0,
    }


class _LeakyEngine(GuidedEngine):
    """Lets a row's last bit depend on who is beside it."""

    def step(self) -> list[Rendered | Failed]:
        neighbours = self.slots - self.room()
        return [
            replace(result, pixels=result.pixels ^ (neighbours > 1))
            if isinstance(result, Rendered)
            else result
            for result in super().step()
        ]


def test_an_engine_that_mixes_rows_is_found_out(shapes64: Model, settings: Settings) -> None:
    group = small_spec_for(shapes64).group()
    engine = open_engine(shapes64, group, settings, 2)
    assert isinstance(engine, GuidedEngine)
    engine.__class__ = _LeakyEngine
    verdict = certify(engine, group, model_name="shapes64")

    assert not verdict.holds
    assert all(check.different > 0 for check in verdict.checks)
    assert "**does not hold**" in report([("leaky", verdict)])


def test_an_engine_that_fails_gives_no_verdict(shapes64: Model, settings: Settings) -> None:
    group = small_spec_for(shapes64).group()
    engine = open_engine(shapes64, group, settings, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes64.components["unet"], "forward", _failing)
        with pytest.raises(RenderError):
            certify(engine, group, model_name="shapes64")


def _failing(*args: object, **kwargs: object) -> None:
    raise RuntimeError("no kernel")


def test_the_command_writes_a_report(tmp_path: Path) -> None:
    output = tmp_path / "certificate.md"
    arguments = [*SHORT, "--output", str(output), "--json"]
    done = CliRunner().invoke(command, arguments, env={"IMAGEMILL_DEVICE": "cpu"})

    assert done.exit_code == 0, done.output
    assert '"holds": true' in done.output
    assert "shapes64, 32x32, with guidance" in output.read_text()
    assert "shapes64, 32x32, without guidance" in output.read_text()


@pytest.mark.parametrize(
    ("batches", "code", "told"), [("continuous", 1, True), ("recorded", 0, False)]
)
def test_the_command_names_what_keeps_the_bits_where_rows_are_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: str, code: int, told: bool
) -> None:
    mix_rows(monkeypatch)
    output = tmp_path / "certificate.md"
    arguments = [*SHORT, "--output", str(output)]
    environment = {"IMAGEMILL_DEVICE": "cpu", "IMAGEMILL_BATCHES": batches}
    done = CliRunner().invoke(command, arguments, env=environment)

    assert done.exit_code == code, done.output
    assert (HOW_TO_KEEP_BITS in done.output) == told
    assert (HOW_TO_KEEP_BITS in output.read_text()) == told
    title = {"continuous": "Batch independence", "recorded": "Dependence on the recorded"}
    assert title[batches] in output.read_text()


@pytest.mark.parametrize("slots", [1, 2])
def test_recorded_batches_of_any_b_can_be_certified(
    shapes64: Model, settings: Settings, slots: int
) -> None:
    group = small_spec_for(shapes64).group()
    recorded = settings.model_copy(update={"batches": "recorded"})
    verdict = certify(open_engine(shapes64, group, recorded, slots), group, model_name="shapes64")
    assert verdict.holds
    assert [(check.name, check.compared) for check in verdict.checks] == [
        ("same composition", slots),
        ("after another one", slots),
        ("beside a cancelled image", slots - 1),
    ]


class _Moody(RecordedEngine):
    """Gives other pictures as its steps go on."""

    def step(self) -> list[Rendered | Failed]:
        return [
            replace(result, pixels=result.pixels + self.steps % 251)
            if isinstance(result, Rendered)
            else result
            for result in super().step()
        ]


def test_a_device_that_changes_its_mind_keeps_no_promise(
    shapes64: Model, settings: Settings
) -> None:
    group = small_spec_for(shapes64).group()
    recorded = settings.model_copy(update={"batches": "recorded"})
    engine = open_engine(shapes64, group, recorded, 2)
    engine.__class__ = _Moody
    verdict = certify(engine, group, model_name="shapes64")
    assert not verdict.holds
    assert all(check.different for check in verdict.checks)


def test_a_wrong_size_is_told() -> None:
    done = CliRunner().invoke(command, ["--size", "big"])
    assert done.exit_code == 2
    assert "WIDTHxHEIGHT" in done.output
