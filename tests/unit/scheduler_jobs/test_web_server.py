"""The server of gallery and API ends in its own way whenever it is told to."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal
from imagemill.scheduler_jobs.web_server import listen, serve

async def app(scope, receive, send):
    raise AssertionError("nobody asks")

with listen("127.0.0.1", 0) as listening:
    serve(app, listening, ready=lambda: os.kill(os.getpid(), signal.{name}))
print("what comes after")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_told_to_end_while_it_starts_it_ends(name: str) -> None:
    program = [sys.executable, "-c", PROGRAM.format(name=name)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "what comes after\n"), done.stderr
