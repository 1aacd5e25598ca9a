"""`imagemill up`: a job goes through a drained and a killed worker, and through `down` and `up`."""

import json
import os
import signal
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import AuthenticationError, OpenAI

from imagemill.scheduler_jobs.local.ports import LOOPBACK
from imagemill.scheduler_jobs.local.postgres import runs_as_other_user
from imagemill.scheduler_jobs.stack.plan import PREFERRED
from tests.e2e.commands import dataset_images, imagemill, last_json
from tests.e2e.test_production import fetch
from tests.helpers.http.browser import Browser, Chromium, find_browser
from tests.helpers.places import ROOT
from tests.integration.workers import eventually, lives, runs

ROWS = 40
PATIENCE_SECONDS = 300
LEASES = {"IMAGEMILL_LEASE_SECONDS": "6", "IMAGEMILL_HEARTBEAT_SECONDS": "1"}


@pytest.fixture
def home(open_folder: Path) -> Iterator[Path]:
    """A folder for a stack, which is down at the end, however the test ends."""
    place = open_folder / "home"
    yield place
    if place.exists():
        imagemill("--home", place, "down")


@contextmanager
def expected_ports_taken() -> Iterator[None]:
    """Within the block, a new stack chooses ports that no other stack wishes for later."""
    with ExitStack() as held:
        for port in filter(None, PREFERRED.values()):
            taken = held.enter_context(socket.socket())
            with suppress(OSError):
                taken.bind((LOOPBACK, port))
                taken.listen()
        yield


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The first of the PartiPrompts, as they are published."""
    lines = (ROOT / "tests/data/prompts/PartiPrompts.tsv").read_text("utf-8").splitlines()
    file = tmp_path / "parti.tsv"
    file.write_text("\n".join(lines[: ROWS + 1]) + "\n", "utf-8")
    return file


def services(home: Path) -> Mapping[str, Mapping[str, Any]]:
    found = last_json(imagemill("--home", home, "ps", "--json"))["services"]
    return {each["service"]: each for each in found}


def wait_for(what: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.5)


@pytest.mark.timeout(1800)
def test_a_job_survives_a_drain_a_kill_and_a_night(home: Path, manifest: Path, tmp_path: Path):
    up = ["--home", home, "up", "--workers", "2", "--children", "1", "--json"]
    with expected_ports_taken():
        started = last_json(imagemill(*up, environment=LEASES))
    first = {each["service"]: each for each in started["services"]}
    assert {each["state"] for each in first.values()} == {"running"}

    imagemill("--home", home, "submit", manifest, "--size", "64x64", "--steps", "12")
    environment = last_json(imagemill("--home", home, "env", "--json"))["environment"]
    assert_pages(first, environment, tmp_path)

    database = environment["IMAGEMILL_DATABASE_URL"]
    wait_for(lambda: any(image["state"] == "done" for image in dataset_images(database)))
    imagemill("--home", home, "down", "worker-2")
    assert services(home)["worker-2"]["state"] == "stopped"
    for victim in ("worker-1", "postgres"):
        os.kill(services(home)[victim]["pid"], signal.SIGKILL)
        wait_for(lambda name=victim: services(home)[name]["restarts"] >= 1)
    wait_for(lambda: services(home)["postgres"]["state"] == "running")

    pids = [each["pid"] for each in services(home).values() if each["pid"]]
    imagemill("--home", home, "down")
    assert not [pid for pid in pids if lives(pid)]
    assert {each["state"] for each in services(home).values()} == {"stopped"}

    again = last_json(imagemill("--home", home, "up", "--json", environment=LEASES))
    second = {each["service"]: each for each in again["services"]}
    assert set(second) == set(first), "the two workers were remembered"
    assert {each["state"] for each in second.values()} == {"running"}
    assert {n: s["address"] for n, s in second.items()} == {
        n: s["address"] for n, s in first.items()
    }
    imagemill("--home", home, "watch", "latest")
    images = dataset_images(database)
    assert [image["state"] for image in images] == ["done"] * ROWS
    assert len({image["object_key"] for image in images}) == ROWS
    imagemill("--home", home, "verify", "latest")


@pytest.mark.timeout(1800)
def test_two_at_once_are_one_stack_and_a_killed_supervisor_loses_nothing(home: Path):
    up = partial(imagemill, "--home", home, "up", "--workers", "0", "--json", installed=True)
    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(up) for _ in range(2)]
        first, second = (last_json(each.result()) for each in answers)
    assert first["supervisor_pid"] == second["supervisor_pid"]
    assert_private(home, first["supervisor_pid"])
    address = {each["service"]: each["address"] for each in first["services"]}
    before = {each["service"]: psutil.Process(each["pid"]) for each in first["services"]}
    imagemill("--home", home, "submit", ROOT / "examples/shapes.csv")

    os.kill(first["supervisor_pid"], signal.SIGKILL)
    assert_end(before, home)
    assert {each["state"] for each in services(home).values()} == {"stopped"}
    again = last_json(up())
    # The pages have ports that every stack of this machine would like; another may have them now.
    servers = ("postgres", "valkey", "seaweedfs")
    now = {each["service"]: each["address"] for each in again["services"]}
    assert [now[each] for each in servers] == [address[each] for each in servers]
    assert {each["state"] for each in again["services"]} == {"running"}
    (job,) = last_json(imagemill("--home", home, "jobs", "--json"))["jobs"]
    assert job["state"] == "open"
    assert_api(now["serve"], last_json(imagemill("--home", home, "env", "--json")))


def assert_end(found: Mapping[str, psutil.Process], home: Path) -> None:
    """All of these services end; one that does not is shown with its log."""
    eventually(lambda: not any(map(runs, found.values())), PATIENCE_SECONDS)
    left = [name for name, process in found.items() if runs(process)]
    logs = [(home / "logs" / f"{name}.log").read_text()[-3000:] for name in left]
    assert not left, "\n".join(["these live on:", *left, *logs])


def assert_api(address: str, env: Mapping[str, Any]) -> None:
    """Clients of OpenAI's API get in with the stack's key, and with no other."""
    key = env["environment"]["IMAGEMILL_API_KEY"]
    with OpenAI(base_url=address, api_key=key) as client:
        assert [each.id for each in client.models.list()] == ["shapes64"]
        with pytest.raises(AuthenticationError):
            client.with_options(api_key="none").models.list()


def assert_private(home: Path, supervisor: int) -> None:
    """Nobody else reads the folder, and nobody reaches a port from another machine."""
    # Files and processes of a running stack come and go while they are looked at.
    for file in home.rglob("*"):
        # The servers' own files; the folders hide them.
        if not {"data", "installation"} & set(file.relative_to(home).parts):
            with suppress(FileNotFoundError):
                assert file.stat().st_mode & 0o077 == 0, file
    assert home.stat().st_mode & 0o777 == (0o711 if runs_as_other_user() else 0o700)
    family = psutil.Process(supervisor).children(recursive=True)
    listening, command_lines = [], []
    for process in family:
        with suppress(psutil.NoSuchProcess):
            listening += [
                connection.laddr.ip
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            ]
            command_lines += process.cmdline()
    assert len(listening) > len(family) / 2
    assert set(listening) == {"127.0.0.1"}
    secrets = json.loads((home / "stack.json").read_text())["secrets"].values()
    assert not [secret for secret in secrets if secret in " ".join(command_lines)]


def assert_pages(
    found: Mapping[str, Mapping[str, Any]], environment: Mapping[str, str], folder: Path
) -> None:
    """Flower and the gallery ask for what `env` tells, and show the work."""
    flower, gallery = found["flower"]["address"], found["gallery"]["address"]
    assert fetch(f"{flower}tasks")[0] == 401
    login = environment["IMAGEMILL_FLOWER_BASIC_AUTH"]
    wait_for(lambda: "worker-2" in fetch(f"{flower}workers", login)[1])
    assert fetch(f"{gallery}")[0] == 403
    assert "imagemill_job_images" in fetch(found["dispatcher"]["address"])[1]
    assert fetch(found["worker-2"]["address"])[0] == 200
    program = find_browser()
    if program is None:
        return
    token = environment["IMAGEMILL_GALLERY_TOKEN"]
    with Chromium(program, folder / "profile") as chromium, Browser(chromium) as page:
        page.resize(1280, 800)
        page.open(f"{gallery}?token={token}")
        page.wait("document.body.innerText.includes('parti')")
        page.screenshot(folder / "gallery.png")
        page.open(f"http://{login}@{urllib.parse.urlsplit(flower).netloc}/workers")
        page.wait("document.body.innerText.includes('worker-1')")
        page.screenshot(folder / "flower.png")
