"""What a worker takes from the broker: tokens of its own route, exactly as we publish them.

Celery's own consumer acts on much more. Headers may set time limits or call other tasks. A body
that it can't decode ends the worker, and then the next worker that gets the same message. Whole
messages are copied into the log. Anybody who can publish into a queue could use that.
"""

import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker.consumer import Consumer

from imagemill.db.broker.wake_ups import TASKS, queue_name
from imagemill.db.settings import Settings

log = logging.getLogger(__name__)

_IDENTITY = re.compile(r"[0-9a-f-]{36}")
_MOST_BYTES = 4096
"""A token has about 150 bytes."""


class TokenConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer behind a gate: a message that is no token is dropped with one line."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.loop: Callable[..., None] = partial(_outlive_garbage, vars(self)["loop"])

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], None]:
        """The function that gets every message."""
        handle = super().create_task_handler(*arguments, **options)
        route = Settings.load().route

        def receive(message: Any) -> None:
            problem = refusal(message, route)
            if problem is not None:
                log.warning("a message in %s was dropped: %s", queue_name(route), problem)
                message.reject_log_error(log, self.connection_errors)
                return
            _strip(message, route)
            handle(message)

        return receive


def refusal(message: Any, route: str) -> str | None:
    """Why a message (kombu's) is not a token of this route; None if it is one.

    The reason quotes nothing of the message, because a message may hold anything.
    """
    if message.content_type != "application/json":
        return "it is not JSON"
    if len(message.body or "") > _MOST_BYTES:
        return f"a token has less than {_MOST_BYTES} bytes"
    return _wrong_headers(message.headers) or _wrong_body(message, route)


def _wrong_headers(headers: Any) -> str | None:
    if not isinstance(headers, dict) or headers.get("task") not in TASKS:
        return f"it is for none of the tasks {', '.join(TASKS)}"
    if not isinstance(headers.get("id"), str) or not _IDENTITY.fullmatch(headers["id"]):
        return "its id is not one of Celery's"
    return None


def _wrong_body(message: Any, route: str) -> str | None:
    try:
        arguments, named, embedded = message.decode()
        steered = any(value is not None for value in embedded.values())
    except Exception:  # a foreign body may raise anything
        return "its body is not a task's"
    if arguments != [] or named != {"route": route}:
        return f"its argument is not the route {route}"
    return "other tasks are embedded in it" if steered else None


def _strip(message: Any, route: str) -> None:
    """Keep only the headers that say what the task is: no time limits, names or texts."""
    message.headers = {
        "lang": "py",
        "task": message.headers["task"],
        "id": message.headers["id"],
        "root_id": message.headers["id"],
        "parent_id": None,
        "argsrepr": "()",
        "kwargsrepr": repr({"route": route}),
    }


def _outlive_garbage(loop: Callable[..., None], *arguments: Any) -> None:
    """Run Celery's event loop. Bytes in the queue that are no message cost a new connection."""
    connection = arguments[1]
    try:
        loop(*arguments)
    except connection.connection_errors + connection.channel_errors:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        log.warning("something in the queue was no message (%s)", type(error).__name__)
        raise ConnectionResetError("connecting again, after what was no message") from None
