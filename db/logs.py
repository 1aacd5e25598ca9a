"""Log lines: one an event, on standard error, for people or as JSON.

A line says which job, image and shift it is about where that is known: `log_fields` binds them
for a while, `extra=` names them for one line. No prompt is logged above DEBUG. Whatever a message
holds (a text from a message, a file or another service), it stays on its own line, with control
characters escaped, and the passwords and keys that this process holds are replaced by `***`.
"""

import json
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from imagemill.db.urls import passwords_in

if TYPE_CHECKING:
    from imagemill.db.settings import Settings

_NOISY = frozenset(
    {"alembic", "boto3", "botocore", "filelock", "httpcore", "httpcore2", "httpx", "httpx2"}
    | {"huggingface_hub", "PIL", "psycopg", "redis", "urllib3"}
)
"""They log requests, headers and statements below WARNING."""

_SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "PGPASSWORD",
    "FLOWER_BASIC_AUTH",
    "IMAGEMILL_FLOWER_BASIC_AUTH",
)
_LEAST_SECRET = 6
"""Characters from which a secret is looked for: replacing every `app` would say more, not less."""

_FIELDS: Mapping[str, object] = MappingProxyType({})
_bound: ContextVar[Mapping[str, object]] = ContextVar("imagemill_log_fields", default=_FIELDS)
# `data` is where Celery repeats what its messages say.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "data"}


@contextmanager
def log_fields(**fields: object) -> Iterator[None]:
    """Every line of this thread says these fields (`shift=…`, `job=…`) until the block ends."""
    token = _bound.set(MappingProxyType({**_bound.get(), **fields}))
    try:
        yield
    finally:
        _bound.reset(token)


class _Formatter(logging.Formatter, ABC):
    """What both formats share: a line's fields, and no secret in it."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        super().__init__()
        # In JSON a secret may stand escaped.
        self._secrets = tuple(dict.fromkeys((*secrets, *(json.dumps(s)[1:-1] for s in secrets))))

    def format(self, record: logging.LogRecord) -> str:
        """The record as it is written, without secrets."""
        text = self.written(record)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    @abstractmethod
    def written(self, record: logging.LogRecord) -> str:
        """The record as text."""

    @staticmethod
    def fields(record: logging.LogRecord) -> dict[str, object]:
        """What was bound where the line was logged, and its own `extra`."""
        own = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return {**_bound.get(), **own}


class JsonFormatter(_Formatter):
    """One JSON object a line: time (UTC), level, logger, process, message, and the fields."""

    def written(self, record: logging.LogRecord) -> str:
        """The record as JSON; an exception is one of its strings."""
        document: dict[str, object] = {
            "time": _time(record, "milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        document |= self.fields(record)
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str, ensure_ascii=True)


class HumanFormatter(_Formatter):
    """`time level pid logger: message (shift 3, image 5)`; only a traceback has more lines.

    Those are indented behind a bar, so that none of them can pass for an event.
    """

    def written(self, record: logging.LogRecord) -> str:
        """The record as a line of printable characters."""
        text = (
            f"{_time(record, 'seconds')} {record.levelname:7} {record.process} "
            f"{record.name}: {printable(record.getMessage())}"
        )
        fields = self.fields(record)
        if fields:
            named = ", ".join(f"{name} {printable(str(value))}" for name, value in fields.items())
            text += f" ({named})"
        if record.exc_info:
            trace = self.formatException(record.exc_info).split("\n")
            text += "".join(f"\n    | {printable(line)}" for line in trace)
        return text


def printable(text: str) -> str:
    """The text with line ends, control and bidi characters escaped: one line, as it reads."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def configure_logging(settings: "Settings") -> None:
    """Send this process's log lines to standard error as the settings say. Safe to repeat."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter if settings.log_format == "json" else HumanFormatter
    handler.setFormatter(formatter(secrets_of(settings)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)  # a warning is an event too, and belongs on one line


def secrets_of(settings: "Settings", *, least: int = _LEAST_SECRET) -> tuple[str, ...]:
    """The passwords, tokens and keys that this process was given, as they may stand in a text.

    Only those of at least `least` characters. The longest first, so that none is found inside
    another.
    """
    given = [os.environ.get(name, "") for name in _SECRET_VARIABLES]
    found = {*given, *(value.partition(":")[2] for value in given)}  # Flower's is user:password
    for url in (settings.database_url, settings.broker_url):
        found |= passwords_in(url.get_secret_value())
    long = (secret for secret in found if len(secret) >= max(least, 1))
    return tuple(sorted(long, key=len, reverse=True))


def _time(record: logging.LogRecord, precision: str) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec=precision)
