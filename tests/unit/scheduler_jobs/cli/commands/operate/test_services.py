"""`doctor`, `flower`, `dispatcher`, `models`, `samplers` and `contact-sheet`."""

import os
import subprocess

import pytest
from PIL import Image

from imagemill.db.errors import BrokerError
from imagemill.scheduler_jobs import dispatcher as dispatching
from imagemill.scheduler_jobs.cli.commands.operate import checks
from imagemill.scheduler_jobs.cli.commands.operate.services import TASK_COLUMNS
from imagemill.scheduler_jobs.local.ports import free_ports
from tests.helpers.mill import REFUSED


@pytest.fixture
def device(monkeypatch):
    """Makes the worker's side answer at once."""

    def answer(out="", err="", code=0):
        done = subprocess.CompletedProcess([], code, out, err)
        monkeypatch.setattr(checks.subprocess, "run", lambda *args, **kwargs: done)

    answer(out="cpu, fp32\n")
    return answer


class NoBroker:
    def __init__(self, settings):
        pass

    def waiting(self, route, *, task=""):
        raise BrokerError("redis://:opensesame@broker/0: refused, said opensesame")

    def close(self):
        pass


def found(document, name):
    (check,) = (check for check in document["checks"] if check["name"] == name)
    return check


def test_doctor_finds_a_healthy_home_healthy(at_home, mill, device):
    answer = at_home("doctor", "--json")
    assert answer.code == 0, answer.out
    assert answer.json["ok"]
    assert found(answer.json, "database")["status"] == "ok"
    assert found(answer.json, "broker")["status"] == "note"
    assert found(answer.json, "device")["detail"] == "cpu, fp32"
    assert "w@host" in found(answer.json, "workers")["detail"]


def test_doctor_says_how_to_mend_what_does_not_answer(imagemill, device, monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGEMILL_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/nothing")
    monkeypatch.setenv("IMAGEMILL_BROKER_URL", "redis://:opensesame@broker/0")
    monkeypatch.setenv("IMAGEMILL_STORAGE_URL", str(tmp_path / "objects"))
    monkeypatch.setattr(checks, "Tokens", NoBroker)
    answer = imagemill("doctor")
    assert answer.code == 3
    assert "correct IMAGEMILL_DATABASE_URL" in answer.out
    assert "correct IMAGEMILL_BROKER_URL" in answer.out
    assert "opensesame" not in answer.out
    assert "hunter2" not in answer.out
    told = imagemill("doctor", "--json").json
    assert [check["status"] for check in told["checks"]] == [
        *("ok", "failed", "failed", "note", "ok", "ok", "note"),
    ]
    assert list(tmp_path.iterdir()) == [], "a doctor creates nothing"


def test_doctor_stops_at_settings_that_cannot_be_read(imagemill, monkeypatch):
    monkeypatch.setenv("IMAGEMILL_SLOTS", "many")
    answer = imagemill("doctor", "--json")
    assert answer.code == 2
    assert [check["name"] for check in answer.json["checks"]] == ["settings"]
    assert "IMAGEMILL_SLOTS" in found(answer.json, "settings")["detail"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NOTIFY_URLS", "ftp://a"),
        ("NOTIFY_SECRET", "abc"),
        ("NOTIFY_EVENTS", "job.finishd"),
        ("NOTIFY_COMMAND", "'"),
        ("PRICES", "H200=nan"),
        ("LABELS", "a b"),
        ("PRUNE_LABEL", "-a"),
        ("PRUNE_KEEP_LABEL", "Keep it"),
    ],
)
def test_doctor_reads_what_only_other_processes_use(imagemill, monkeypatch, name, value):
    monkeypatch.setenv(f"IMAGEMILL_{name}", value)
    answer = imagemill("doctor", "--json")
    assert answer.code == 2
    assert found(answer.json, "settings")["detail"].startswith(f"IMAGEMILL_{name}: ")


def test_doctor_asks_for_a_migration(imagemill, device, tmp_path):
    answer = imagemill("--home", tmp_path, "doctor", "--json")
    assert answer.code == 2
    assert "imagemill migrate" in found(answer.json, "database")["detail"]
    assert not (tmp_path / "imagemill.sqlite3").exists()


def test_doctor_names_a_default_model_that_is_not_there(at_home, device, monkeypatch):
    monkeypatch.setenv("IMAGEMILL_DEFAULT_MODEL", "nonesuch")
    check = found(at_home("doctor", "--json").json, "models")
    assert check["status"] == "failed"
    assert "nonesuch" in check["detail"]


@pytest.mark.parametrize(
    ("err", "status"),
    [
        ("No module named imagemill.worker.models.device", "note"),
        ("ModuleNotFoundError: No module named 'torch'", "note"),
        ("error: IMAGEMILL_DEVICE: cuda, but torch sees no GPU", "failed"),
        ("", "failed"),
    ],
)
def test_doctor_passes_on_what_the_device_check_says(at_home, device, err, status):
    device(err=err, code=1)
    check = found(at_home("doctor", "--json").json, "device")
    assert check["status"] == status
    assert err.removeprefix("error: ") in check["detail"]


@pytest.fixture
def executed(monkeypatch):
    """What would have taken this process's place: its command and environment."""
    seen = []
    monkeypatch.setattr(os, "execve", lambda *arguments: seen.append(arguments))
    return seen


def test_flower_makes_up_a_password_and_keeps_it_off_the_command_line(at_home, executed):
    (port,) = free_ports(1)
    told = at_home("flower", "--port", port, "--json").json
    (_, command, environment) = executed[0]
    assert told["url"] == f"http://127.0.0.1:{port}/"
    assert command[1:] == [
        *("-P", "-m", "imagemill.db.broker.celery_app", "flower"),
        *(
            "--address=127.0.0.1",
            f"--port={port}",
            f"--tasks-columns={TASK_COLUMNS}",
            "--conf=/dev/null",
        ),
    ]
    assert len(told["password"]) > 20
    assert environment["FLOWER_BASIC_AUTH"] == f"imagemill:{told['password']}"


def test_flower_uses_the_password_it_is_given_and_never_shows_it(at_home, executed, monkeypatch):
    monkeypatch.setenv("IMAGEMILL_FLOWER_BASIC_AUTH", "me:opensesame")
    answer = at_home("flower", "--port", *free_ports(1))
    assert "opensesame" not in answer.out + answer.err
    assert executed[0][2]["FLOWER_BASIC_AUTH"] == "me:opensesame"


@pytest.mark.parametrize("login", ["opensesame", ":opensesame", "me:"])
def test_flower_refuses_a_login_that_is_none(at_home, executed, monkeypatch, login):
    monkeypatch.setenv("IMAGEMILL_FLOWER_BASIC_AUTH", login)
    answer = at_home("flower")
    assert (answer.code, executed) == (2, [])
    assert "opensesame" not in answer.err


@pytest.mark.parametrize("token", ["", "short-one"])
def test_gallery_refuses_a_token_that_anybody_guesses(at_home, monkeypatch, token):
    monkeypatch.setenv("IMAGEMILL_GALLERY_TOKEN", token)
    answer = at_home("gallery", "--port", "0")
    assert answer.code == 2
    assert "IMAGEMILL_GALLERY_TOKEN: at least 16 characters" in answer.err


def test_dispatcher_does_a_round(at_home, mill, monkeypatch):
    job = mill.load("shapes", ["a circle"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift))
    monkeypatch.setattr(dispatching, "Tokens", NoBroker)
    answer = at_home("dispatcher", "--once", "--json")
    assert answer.json == {"stopped": True}
    assert "jobs finished: 1" in answer.err
    assert mill.job(job).state == "finished"


def test_a_single_round_serves_no_metrics(at_home):
    answer = at_home("dispatcher", "--once", "--metrics-port", "9464")
    assert answer.code == 2
    assert "--metrics-port: with --once nobody could read" in answer.err


def test_models_lists_what_is_here_and_what_is_not(imagemill, monkeypatch, tmp_path):
    registry = tmp_path / "models.toml"
    registry.write_text(f'[models.away]\nsource = "someone/something"\nrevision = "{"a" * 40}"\n')
    monkeypatch.setenv("IMAGEMILL_MODELS", str(registry))
    monkeypatch.setenv("IMAGEMILL_MODEL_CACHE", str(tmp_path / "cache"))
    listed = {model["model"]: model for model in imagemill("models", "--json").json["models"]}
    assert listed["shapes64"]["default"]
    assert listed["shapes64"]["problem"] is None
    assert len(listed["shapes64"]["digest"]) == 64
    assert "imagemill models pull away" in listed["away"]["problem"]
    answer = imagemill("models")
    assert "shapes64 (default)" in answer.out
    assert "imagemill models pull away" in answer.err


def test_samplers_lists_every_name(imagemill):
    listed = {
        sampler["sampler"]: sampler for sampler in imagemill("samplers", "--json").json["samplers"]
    }
    assert listed["euler_a"]["display"] == "Euler a"
    assert listed["dpmpp_2m_karras"]["options"] == {"use_karras_sigmas": True}
    assert "DPM++ 2M Karras" in imagemill("samplers").out


def test_contact_sheet_shows_done_and_dead_images(at_home, mill, tmp_path):
    mill.load("shapes", ["a circle", "a square"])
    shift = mill.shift()
    first, second = mill.claim(shift)
    mill.begin(shift, [first.id, second.id])
    mill.complete(shift, [first])
    mill.fail(shift, second.id, REFUSED)
    (tmp_path / "home" / "objects").mkdir()
    file = tmp_path / "sheet.png"
    told = at_home("contact-sheet", "latest", "-o", file, "--columns", 2, "--json").json
    assert told["images"] == 2
    with Image.open(file) as page:
        assert page.width > 2 * 192
    nowhere = at_home("contact-sheet", "latest", "-o", tmp_path / "none" / "sheet.png")
    assert (nowhere.code, "can't be written" in nowhere.err) == (2, True)
    unknown = at_home("contact-sheet", "latest", "-o", tmp_path / "sheet.xyz")
    assert unknown.code == 2
