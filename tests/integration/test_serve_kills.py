"""`imagemill serve` is killed in the middle of what it does, and nothing is lost or doubled."""

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import APIConnectionError, OpenAI

from imagemill.scheduler_jobs.local.ports import free_ports
from tests.helpers.deploy.metrics import scrape, value
from tests.integration.workers import Plant, Program, eventually, planted

WINDOW = {"endpoint": "/v1/images/generations", "completion_window": "24h"}
LINES = 25


@pytest.fixture
def plant(database_url: str, broker_url: str, tmp_path: Path) -> Iterator[Plant]:
    store = tmp_path / "objects"
    store.mkdir()
    with planted(
        database_url, tmp_path, broker_url=broker_url, storage_url=str(store), heartbeat_seconds="1"
    ) as planted_:
        yield planted_


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def client(port: int) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
        yield client


def serve(plant: Plant, port: int) -> Program:
    program = plant.serve(port)

    def answers() -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        except httpx2.TransportError:
            assert program.alive, program.said
            return False

    assert eventually(answers), program.said
    return program


def kill(program: Program) -> None:
    program.signal(signal.SIGKILL)
    program.ends()


def line(number: int) -> str:
    body = {"prompt": f"a fox {number}", "size": "64x64", "steps": 2, "n": 2}
    asked = {"custom_id": f"r{number}", "method": "POST", "url": WINDOW["endpoint"]}
    return json.dumps(asked | {"body": body})


def test_a_killed_server_loses_no_batch(plant: Plant, port: int, client: OpenAI) -> None:
    patient = client.with_options(max_retries=5)  # a server may end a connection that idles
    server = serve(plant, port)
    content = "\n".join(line(number) for number in range(LINES)).encode()
    file = client.files.create(file=("lines.jsonl", content), purpose="batch")
    batches = [client.batches.create(input_file_id=file.id, **WINDOW).id]
    kill(server)  # at once: the batch is recorded, and may not be loaded
    server = serve(plant, port)
    batches.append(client.batches.create(input_file_id=file.id, **WINDOW).id)
    worker, dispatcher = plant.worker(), plant.dispatcher()
    assert eventually(lambda: patient.batches.retrieve(batches[1]).status != "validating")
    kill(server)  # while workers render what it has loaded
    server = serve(plant, port)
    done = "completed"
    assert eventually(lambda: {patient.batches.retrieve(b).status for b in batches} == {done}), (
        plant.logs
    )
    for batch_id in batches:
        batch = patient.batches.retrieve(batch_id)
        counts = {"total": LINES, "completed": LINES, "failed": 0}
        assert batch.request_counts.model_dump() == counts
        text = patient.files.content(batch.output_file_id).text
        found = [json.loads(each) for each in text.splitlines()]
        assert [each["custom_id"] for each in found] == [f"r{n}" for n in range(LINES)]
        images = [image for each in found for image in each["response"]["body"]["data"]]
        assert len({image["image_id"] for image in images}) == 2 * LINES
        assert all(image["b64_json"] for image in images)
    assert jobs(plant) == 2
    for program in (server, dispatcher, worker):
        program.signal(signal.SIGTERM)
    assert server.ends() == 0


def test_a_request_of_a_killed_server_is_rendered_once(
    plant: Plant, port: int, client: OpenAI
) -> None:
    asked: dict[str, Any] = {
        "prompt": "a fox",
        "size": "64x64",
        "extra_body": {"steps": 2},
        "extra_headers": {"Idempotency-Key": "my fox"},
    }
    server = serve(plant, port)
    outcome: list[Exception] = []

    def ask() -> None:
        try:
            client.images.generate(**asked)
        except APIConnectionError as error:
            outcome.append(error)

    waiting = threading.Thread(target=ask)
    waiting.start()
    assert eventually(lambda: jobs(plant) == 1)
    kill(server)
    waiting.join()
    assert outcome, "the connection broke while it waited"
    serve(plant, port)
    plant.worker()
    plant.dispatcher()  # the server may have died before it could wake a worker
    answer = client.images.generate(**asked)
    assert answer.data[0].b64_json
    assert jobs(plant) == 1


def jobs(plant: Plant) -> int:
    with plant.database.engine.connect() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one()


def test_it_has_metrics_on_a_port_of_their_own(plant: Plant, port: int) -> None:
    (own,) = free_ports(1)
    plant.environment["IMAGEMILL_METRICS_PORT"] = str(own)
    serve(plant, port)
    place = {"method": "GET", "address": "/healthz", "status": "200"}
    assert eventually(lambda: value(scrape(own), "imagemill_http_requests_total", **place) >= 1)
