"""The production set-up in small: Postgres, Valkey, S3, a dispatcher, two workers and Flower.

Each service runs by its exact command in `docker-compose.yml`. The same code path as `imagemill
run`, pointed elsewhere by settings, gives the same pixels.
"""

import base64
import hashlib
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from imagemill.db.broker.wake_ups import Tokens
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.ports import free_ports
from tests.e2e.commands import dataset_images, imagemill, last_json
from tests.helpers.deploy.compose import COMPOSE_FILE, ROOT, compose_commands, used_variables
from tests.integration.workers import eventually

PROMPTS = [
    f"a {colour} {kind} on a {ground} background"
    for colour, ground in (("red", "blue"), ("green", "white"), ("yellow", "black"))
    for kind in ("circle", "star", "square", "heart")
]


@pytest.fixture
def environment(postgres_url, broker_url, s3_storage_url, s3_server, s3_environment):
    return {
        **s3_environment,
        "IMAGEMILL_DATABASE_URL": postgres_url,
        "IMAGEMILL_BROKER_URL": broker_url,
        "IMAGEMILL_STORAGE_URL": s3_storage_url,
        "IMAGEMILL_S3_ENDPOINT_URL": s3_server.endpoint,
        "IMAGEMILL_HEARTBEAT_SECONDS": "1",
    }


@pytest.fixture
def manifest(tmp_path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": prompt, "steps": 4}) + "\n" for prompt in PROMPTS)
    )
    return file


@contextmanager
def service(
    command: str, *arguments: str, environment: dict[str, str], log: Path
) -> Iterator[TetheredProcess]:
    """A command of this installation as a process."""
    process = TetheredProcess(
        [str(Path(sys.executable).parent / command), *arguments],
        environment={**os.environ, **environment},
        log=log,
    )
    try:
        yield process
    finally:
        process.stop(seconds=40)


def wait_until_finished(
    environment: dict[str, str], logs: Path, seconds: float = 600
) -> list[dict[str, Any]]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        images = dataset_images(environment["IMAGEMILL_DATABASE_URL"])
        if images and all(image["state"] in {"done", "dead"} for image in images):
            return images
        time.sleep(1)
    ends = [log.read_text()[-1500:] for log in logs.glob("*.log")]
    raise AssertionError("\n".join([f"not finished after {seconds} s", *ends]))


def fetch(url: str, password: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url)
    if password is not None:
        token = base64.b64encode(password.encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=240) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


@pytest.mark.timeout(1800)
def test_two_workers_on_postgres_valkey_and_s3_give_the_pixels_of_a_local_run(
    environment, manifest, tmp_path
):
    services = compose_commands(dict.fromkeys(used_variables(COMPOSE_FILE.read_text()), "x"))

    def started(name: str, log: str, *more: str, **variables: str):
        """A service by its exact command; only addresses, ports and passwords are ours."""
        own = {
            "IMAGEMILL_METRICS_ADDRESS": "127.0.0.1",
            "IMAGEMILL_METRICS_PORT": str(free_ports(1)[0]),
        }
        here = {**services[name].environment, **environment, **own, **variables}
        here["IMAGEMILL_CONFIG"] = str(ROOT / "deploy" / "imagemill.toml")
        here["IMAGEMILL_MODELS"] = str(ROOT / "deploy" / "models.toml")
        here["IMAGEMILL_MODEL_CACHE"] = str(tmp_path / "models")
        return service(*services[name].argv, *more, environment=here, log=tmp_path / log)

    with started("migrate", "migrate.log") as migrating:
        assert migrating.wait(240) == 0
    submitted = last_json(imagemill("submit", manifest, "--json", environment=environment))
    assert submitted["requested"] == len(PROMPTS)
    (port,) = free_ports(1)
    with ExitStack() as stack:
        for name in ("one", "two"):
            worker = started("worker-cpu", f"{name}.log", "--name", name, IMAGEMILL_CHILDREN="1")
            stack.enter_context(worker)
        stack.enter_context(started("dispatcher", "dispatcher.log"))
        flower = started(
            "flower",
            "flower.log",
            *("--address=127.0.0.1", "--port", str(port)),
            IMAGEMILL_FLOWER_BASIC_AUTH="watcher:secret",
        )
        stack.enter_context(flower)
        images = wait_until_finished(environment, tmp_path)
        assert fetch(f"http://127.0.0.1:{port}/tasks")[0] == 401
        tasks = wait_for_tasks(port, environment)
        pages = flower_pages(port, tasks)
    assert {image["state"] for image in images} == {"done"}
    assert "done in" in tasks
    assert_private(pages, tmp_path, environment)
    assert_as_in_a_local_run(images, manifest, tmp_path / "local")
    storage = open_storage(
        Settings.load(
            storage_url=environment["IMAGEMILL_STORAGE_URL"],
            s3_endpoint_url=environment["IMAGEMILL_S3_ENDPOINT_URL"],
        )
    )
    assert len(list(storage.list())) == len(PROMPTS)
    for image in images:
        assert hashlib.sha256(storage.get(image["object_key"])).hexdigest() == image["sha256"]

    again = last_json(imagemill("submit", manifest, "--json", environment=environment))
    assert again["nothing_to_do"]
    assert not again["created"]


def assert_private(pages: Mapping[str, str], folder: Path, environment: Mapping[str, str]) -> None:
    """Neither Flower's pages nor the logs, of the format of production, have prompts or secrets."""
    logs = {log.name: log.read_text() for log in folder.glob("*.log")}
    assert len(logs) == 5
    for name, page in (*pages.items(), *logs.items()):
        assert not [word for word in (*PROMPTS, *secrets_in(environment)) if word in page], name
    events = logs["one.log"] + logs["two.log"]
    # The libraries that a worker imports have lines of their own: none of them may be there.
    said = [line for line in events.splitlines() if line and "shutdown" not in line]
    assert all({"time", "level", "message"} <= json.loads(line).keys() for line in said)


def assert_as_in_a_local_run(
    images: Sequence[Mapping[str, Any]], manifest: Path, out: Path
) -> None:
    """Pixels and files are those of `imagemill run`."""
    imagemill("run", manifest, "--out", out)
    expected = dataset_images(f"sqlite:///{out / 'imagemill.sqlite3'}")
    assert [i["pixels_sha256"] for i in images] == [i["pixels_sha256"] for i in expected]
    assert [i["sha256"] for i in images] == [i["sha256"] for i in expected]


def flower_pages(port: int, tasks: str) -> dict[str, str]:
    """Every kind of page that Flower has, a worker's configuration among them."""
    read = {}
    # This one asks the workers for what the others then show; a busy one may answer too late.
    asked = "/api/workers?refresh=1"

    def answered() -> bool:
        code, read[asked] = fetch(f"http://127.0.0.1:{port}{asked}", "watcher:secret")
        return code == 200 and len(json.loads(read[asked])) == 2

    assert eventually(answered), read[asked]
    pages = ["/workers", "/tasks", "/broker", "/metrics", "/api/tasks", "/api/queues/length"]
    pages += [f"/worker/{urllib.parse.quote(name)}" for name in json.loads(read[asked])]
    pages += [f"/{kind}/{task}" for task in json.loads(tasks) for kind in ("task", "api/task/info")]
    for page in pages:
        code, read[page] = fetch(f"http://127.0.0.1:{port}{page}", "watcher:secret")
        assert code == 200, page
    assert any("broker_url" in text for text in read.values()), "a worker's configuration is shown"
    return read


def secrets_in(environment: dict[str, str]) -> list[str]:
    """The passwords and keys in these variables."""
    urls = (environment["IMAGEMILL_DATABASE_URL"], environment["IMAGEMILL_BROKER_URL"])
    passwords = [urllib.parse.urlsplit(url).password for url in urls]
    found = [*filter(None, passwords), environment["AWS_SECRET_ACCESS_KEY"]]
    assert len(found) == 3
    return found


def wait_for_tasks(port: int, environment: dict[str, str]) -> str:
    """Flower's list of tasks, once a finished shift is in it.

    All images may have been done before Flower listened, so more tokens are sent.
    """
    tokens = Tokens(Settings.load(broker_url=environment["IMAGEMILL_BROKER_URL"]))
    deadline = time.monotonic() + 240
    tasks = ""
    while "done in" not in tasks and time.monotonic() < deadline:
        tokens.publish("default")
        time.sleep(1)
        tasks = fetch(f"http://127.0.0.1:{port}/api/tasks", "watcher:secret")[1]
    tokens.close()
    return tasks
