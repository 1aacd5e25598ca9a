"""The process that forks commands for tests: several test processes may share one."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

from tests.helpers.places import ROOT
from tests.integration.workers import eventually, lives

SLEEPING = """
import socket, sys, time
from tests.helpers.processes.forking import serve_orders
listener = socket.socket(fileno=int(sys.argv[1]))
serve_orders(lambda order: time.sleep(order["seconds"]), listener)
"""


def connected(place: Path) -> IO[str]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(place))
        return connection.makefile("rw")


def order(client: IO[str], seconds: int) -> int:
    """The pid of a fork that lives this long."""
    client.write(json.dumps({"seconds": seconds}) + "\n")
    client.flush()
    return json.loads(client.readline())["started"]


def test_each_client_hears_of_its_forks_which_end_when_it_leaves(tmp_path: Path) -> None:
    place = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        command = [sys.executable, "-c", SLEEPING, str(listener.fileno())]
        number = listener.fileno()
        server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, pass_fds=[number])
    with server:
        one, other = connected(place), connected(place)
        long, longer = order(one, 600), order(other, 600)
        short = order(other, 0)
        assert json.loads(other.readline()) == {"ended": short, "status": 1}
        assert lives(long)
        one.close()
        assert eventually(lambda: not lives(long))
        assert lives(longer)
        other.close()
        assert eventually(lambda: not lives(longer))
        server.stdin.close()
        assert server.wait(60) == 0
