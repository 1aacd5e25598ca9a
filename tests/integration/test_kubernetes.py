"""Each container of `deploy/kubernetes/` as a process: its command, its probe, and its end."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.ports import free_ports
from tests.helpers.deploy.kubernetes import containers, settings

PATIENCE_SECONDS = 240


@pytest.fixture
def variables(
    postgres_url: str,
    broker_url: str,
    s3_storage_url: str,
    s3_server,
    s3_environment,
    tmp_path: Path,
) -> dict[str, str]:
    """What the config map and the secrets of every pod would have."""
    registry = tmp_path / "models.toml"
    registry.write_text("")
    return {
        **settings(),
        **s3_environment,
        "IMAGEMILL_DATABASE_URL": postgres_url,
        "IMAGEMILL_BROKER_URL": broker_url,
        "IMAGEMILL_STORAGE_URL": s3_storage_url,
        "IMAGEMILL_FLOWER_BASIC_AUTH": "operator:password of a test",
        "IMAGEMILL_MODELS": str(registry),
        "IMAGEMILL_MODEL_CACHE": str(tmp_path / "models"),
    }


def started(name: str, variables: dict[str, str], log: Path, *more: str) -> TetheredProcess:
    program, *words = containers()[name]["command"]
    path = str(Path(sys.executable).parent / program)
    environment = {**os.environ, **variables}
    return TetheredProcess([path, *words, *more], environment=environment, log=log)


def probe(name: str, port: int) -> str:
    """The address that a container's probes ask for; they ask for its first port."""
    container = containers()[name]
    found = [container[kind]["httpGet"] for kind in container if kind.endswith("Probe")]
    named, *_ = container["ports"]
    assert {each["port"] for each in found} == {named["name"]}
    (path,) = {each["path"] for each in found}
    return f"http://127.0.0.1:{port}{path}"


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_every_container_runs_answers_its_probe_and_ends(variables: dict[str, str], tmp_path: Path):
    assert started("migrate", variables, tmp_path / "migrate.log").wait(PATIENCE_SECONDS) == 0
    key = (str(Path(sys.executable).parent / "imagemill"), "keys", "add", "alice")
    subprocess.run(key, env={**os.environ, **variables}, check=True, capture_output=True)
    *chosen, own = free_ports(5)
    ports = dict(zip(("dispatcher", "worker", "flower", "serve"), chosen, strict=True))
    running = {}
    for name, port in ports.items():
        where = {"IMAGEMILL_METRICS_PORT": str(own if name == "serve" else port)}
        more = ("--port", str(port)) if name in {"flower", "serve"} else ()
        running[name] = started(name, variables | where, tmp_path / f"{name}.log", *more)
    deadline = time.monotonic() + PATIENCE_SECONDS
    for name, port in ports.items():
        while not answers(probe(name, port)):
            said = (tmp_path / f"{name}.log").read_text()[-1500:]
            assert running[name].poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.3)
    # Before Celery listens to signals, a worker holds nothing, and SIGTERM just ends it.
    while " ready" not in (tmp_path / "worker.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.3)
    for process in running.values():
        process.send(signal.SIGTERM)
    for name, process in running.items():
        status = process.wait(PATIENCE_SECONDS)
        assert status == 0, f"{name}: {(tmp_path / f'{name}.log').read_text()[-1500:]}"
