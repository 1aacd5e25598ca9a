"""Flower's page as a browser shows it: closed without the login, our columns behind it."""

import subprocess
import time
from pathlib import Path

import pytest

from imagemill.scheduler_jobs.local.ports import free_ports
from tests.e2e.test_production import fetch, service
from tests.helpers.http.browser import find_browser


@pytest.fixture
def browser() -> str:
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium or Chrome here")
    return found


@pytest.fixture
def flower(broker_url, tmp_path):
    (port,) = free_ports(1)
    environment = {
        "IMAGEMILL_BROKER_URL": broker_url,
        "IMAGEMILL_FLOWER_BASIC_AUTH": "watcher:secret",
    }
    command = ("imagemill", "flower", "--port", str(port))
    with service(*command, environment=environment, log=tmp_path / "flower.log"):
        deadline = time.monotonic() + 240
        while fetch(f"http://127.0.0.1:{port}/tasks")[0] != 401:
            assert time.monotonic() < deadline, (tmp_path / "flower.log").read_text()
            time.sleep(0.5)
        yield port


def rendered(browser: str, url: str, profile: Path) -> str:
    """The page's text after its scripts ran."""
    quiet = ("--disable-quic", "--disable-background-networking", "--disable-component-update")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
    command += ["--disable-sync", f"--user-data-dir={profile}", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [*command, "--dump-dom", url], capture_output=True, text=True, timeout=400, check=False
    )
    return done.stdout


@pytest.mark.browser
def test_the_page_asks_for_the_login_and_shows_route_and_report(browser, flower, tmp_path):
    closed = rendered(browser, f"http://127.0.0.1:{flower}/tasks", tmp_path / "one")
    assert "Task history" not in closed
    page = rendered(browser, f"http://watcher:secret@127.0.0.1:{flower}/tasks", tmp_path / "two")
    assert "Task history" in page
    for column in ("kwargs", "result"):
        assert column in page.lower()
