"""The loop of a process that forks others: orders in, what became of them out.

Orders come as JSON lines on standard input. Answers go to standard output: `{"started": pid}`, in
the order of the orders, and `{"ended": pid, "status": …}`. The loop ends with standard input.
"""

import ctypes
import json
import os
import select
import signal
import socket
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

Order = Mapping[str, Any]


class _Client:
    """Who orders, by two file descriptors, and which forks are theirs."""

    def __init__(self, orders: int, answers: int) -> None:
        self.orders = orders
        self._answers = answers
        self._rest = b""
        self.forks: dict[int, bool] = {}
        """Process id → whether it stays when they leave."""

    def read(self) -> list[bytes] | None:
        """The orders that have come; None if no more will."""
        data = b""
        with suppress(ConnectionError):
            data = os.read(self.orders, 1 << 20)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines if data else None

    def tell(self, **values: int) -> None:
        with suppress(ConnectionError):
            os.write(self._answers, (json.dumps(values) + "\n").encode())

    def leave(self) -> None:
        for pid, stays in self.forks.items():
            if not stays:
                os.kill(pid, signal.SIGKILL)
        os.close(self.orders)


def serve_orders(live: Callable[[Order], object], listener: socket.socket | None = None) -> None:
    """Call `live` in a fork for each order. It must end its process itself.

    Whoever connects to `listener` orders too; when they leave, their forks are killed, but for
    those that were ordered to stay.
    """
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    clients = {0: _Client(0, 1)}
    listening = [] if listener is None else [listener.fileno()]
    while True:
        readable, _, _ = select.select([waking, *listening, *clients], [], [])
        if waking in readable:
            os.read(waking, 4096)
            _reap(clients.values())
        if listener is not None and listener.fileno() in readable:
            number = listener.accept()[0].detach()
            clients[number] = _Client(number, number)
        for client in [clients[number] for number in readable if number in clients]:
            orders = client.read()
            if orders is None:
                if client.orders == 0:
                    return
                clients.pop(client.orders).leave()
            for order in map(json.loads, orders or ()):
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for number in (waking, woken, *listening, *(n for n in clients if n)):
                        os.close(number)
                    live(order)
                    os._exit(1)
                client.forks[pid] = order.get("stays", False)
                client.tell(started=pid)


def end_with_parent() -> None:
    """Be killed when the parent ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def _reap(clients: Collection[_Client]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        for client in clients:
            if pid in client.forks:
                del client.forks[pid]
                client.tell(ended=pid, status=os.waitstatus_to_exitcode(status))
