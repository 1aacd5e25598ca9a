"""`python forked_python.py SOCKET -u -c CODE` is `python -u -c CODE`, as a fork of `fork_server`.

SOCKET is where the server listens. This process stays beside the fork, whose files are its own, and
ends with it. It imports little, because there is one for each process of a run of tests.
"""

import json
import os
import socket
import sys
from typing import NoReturn


def main() -> NoReturn:
    """See the module's docstring."""
    place, *_, code = sys.argv[1:]
    here = f"/proc/{os.getpid()}"
    order = {
        "module": "-c",
        "words": [code],
        "environment": dict(os.environ),
        "input": f"{here}/fd/0",
        "output": f"{here}/fd/1",
        "errors": f"{here}/fd/2",
        "folder": f"{here}/cwd",
    }
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(place)
        server.sendall(json.dumps(order).encode() + b"\n")
        for line in server.makefile():
            told = json.loads(line)
            if "ended" in told:
                sys.exit(told["status"])
    sys.exit("the server has ended")


if __name__ == "__main__":
    main()
