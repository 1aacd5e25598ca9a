"""The worker of `imagemill run` starts before the command's own modules are imported."""

import sys

import pytest

from imagemill.db.settings import Settings
from imagemill.scheduler_jobs import cli
from imagemill.scheduler_jobs.cli import group
from imagemill.scheduler_jobs.local import run as embedded_run
from imagemill.scheduler_jobs.local import warm_process
from imagemill.scheduler_jobs.local.worker import LocalWorker
from tests.helpers.pretended import a_result


class NoProcess:
    """Stands for the worker's process."""

    def kill(self) -> None:
        pass


@pytest.fixture
def happened(monkeypatch, tmp_path):
    """What `imagemill` does in this process, in order: it never ends this one."""
    happened = []
    process = NoProcess()

    def start(environment):
        happened.append("worker started")
        return process, -1

    def run(request, *, settings, out, progress, early):
        happened.append("run" if early is None else f"run with {early == (process, -1)}")
        return a_result(out)

    load = group.quick_import

    def quick_import(name):
        happened.append("command imported")
        return load(name)

    monkeypatch.setattr(warm_process, "start_warm", start)
    monkeypatch.setattr(embedded_run, "run", run)
    monkeypatch.setattr(group, "quick_import", quick_import)
    return happened


def words(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["imagemill", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.cli.main(prog_name="imagemill")
    return ended.value.code or 0


def test_it_starts_first_and_is_the_runs_worker(happened, manifest, tmp_path, monkeypatch):
    assert words(monkeypatch, "run", manifest, "--out", tmp_path / "out") == 0
    assert happened == ["worker started", "command imported", "run with True"]


@pytest.mark.parametrize("asked", [["run", "--help"], ["plan", "--help"], ["run", "x", "-h"]])
def test_help_starts_none(happened, monkeypatch, asked):
    assert words(monkeypatch, *asked) == 0
    assert "worker started" not in happened


def test_a_command_that_another_program_calls_starts_none(happened, imagemill, manifest, tmp_path):
    assert imagemill("run", manifest, "--out", tmp_path / "out").code == 0
    assert happened == ["command imported", "run"]


def test_a_process_that_runs_already_is_taken_once(tmp_path, monkeypatch):
    early = (NoProcess(), -1)
    worker = LocalWorker(Settings(), tmp_path / "log", early)
    monkeypatch.setattr(worker, "_start", lambda: pytest.fail("started another"))
    monkeypatch.setattr("os.close", lambda handle: None)
    with worker:
        assert (worker._process, worker._pipe) == early
