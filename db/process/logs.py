"""Log lines: one for each event, on standard error, for people or as JSON.

A line names its job, image and shift if they are known: `log_fields` adds them to all lines of a
block, `extra=` to one line. Prompts are logged at DEBUG only.

Parts of a message may come from a manifest, a file or another service. So control characters are
escaped and every event stays on one line, and the passwords and keys of this process are replaced
by `***`.
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
"""Libraries that log requests, headers and statements below WARNING."""

FLOWER_LOGIN = "IMAGEMILL_FLOWER_BASIC_AUTH"
"""user:password of Flower's page. It is not in `Settings`, because no other part may see it."""

GALLERY_TOKEN = "IMAGEMILL_GALLERY_TOKEN"  # noqa: S105  # a name
"""The gallery's token, where it must stay the same from start to start."""

API_KEY = "IMAGEMILL_API_KEY"
"""A key of `imagemill serve`, for people's own clients; no part of imagemill reads it."""

_SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "PGPASSWORD",
    "FLOWER_BASIC_AUTH",
    FLOWER_LOGIN,
    GALLERY_TOKEN,
    API_KEY,
)
_LEAST_SECRET = 6
"""The fewest characters of a secret that is replaced. To replace every `app` in a log would show
that the password is `app`."""

_FIELDS: Mapping[str, object] = MappingProxyType({})
_bound: ContextVar[Mapping[str, object]] = ContextVar("imagemill_log_fields", default=_FIELDS)
# Celery repeats the text of its messages in the field `data`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "data"}


@contextmanager
def log_fields(**fields: object) -> Iterator[None]:
    """Add these fields (`shift=…`, `job=…`) to every log line of this thread within the block."""
    token = _bound.set(MappingProxyType({**_bound.get(), **fields}))
    try:
        yield
    finally:
        _bound.reset(token)


class _Formatter(logging.Formatter, ABC):
    """The part that both formats share: it adds the fields and removes secrets."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        super().__init__()
        # In JSON a secret may be escaped, so its escaped form is replaced too.
        self._secrets = tuple(dict.fromkeys((*secrets, *(json.dumps(s)[1:-1] for s in secrets))))

    def format(self, record: logging.LogRecord) -> str:
        """The record as a text without secrets."""
        text = self.written(record)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    @abstractmethod
    def written(self, record: logging.LogRecord) -> str:
        """The record as a text."""

    @staticmethod
    def fields(record: logging.LogRecord) -> dict[str, object]:
        """The fields of `log_fields` at that place, and the line's own `extra`."""
        own = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return {**_bound.get(), **own}


class JsonFormatter(_Formatter):
    """One JSON object for each line: time (UTC), level, logger, process, message and fields."""

    def written(self, record: logging.LogRecord) -> str:
        """The record as JSON; an exception becomes a string in it."""
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
    """`time level pid logger: message (shift 3, image 5)`. Only a traceback has more lines.

    These lines are indented behind a bar, so that none of them looks like an event.
    """

    def written(self, record: logging.LogRecord) -> str:
        """The record as a line of printable characters."""
        text = (
            f"{_time(record, 'seconds')} {record.levelname:7} {record.process} "
            f"{record.name}: {printable(record.getMessage().rstrip())}"
        )
        fields = self.fields(record)
        if fields:
            named = ", ".join(f"{name} {printable(str(value))}" for name, value in fields.items())
            text += f" ({named})"
        if record.exc_info:
            trace = self.formatException(record.exc_info).split("\n")
            text += "".join(f"\n    | {printable(line)}" for line in trace)
        return text


class TerminalFormatter(HumanFormatter):
    """`warning: message`, for somebody who has just typed a command."""

    def written(self, record: logging.LogRecord) -> str:
        """The record as a line of printable characters; with its traceback, all about it."""
        if record.exc_info:
            return super().written(record)
        return f"{record.levelname.lower()}: {printable(record.getMessage().rstrip())}"


def printable(text: str) -> str:
    """The text on one line, with line ends, control and bidi characters escaped."""
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
    # The command line keeps our own loggers quiet; a service says what its settings ask for.
    logging.getLogger("imagemill").setLevel(logging.NOTSET)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)  # Python's warnings become log lines too


def secrets_of(settings: "Settings", *, least: int = _LEAST_SECRET) -> tuple[str, ...]:
    """The passwords, tokens and keys of this process that have at least `least` characters.

    They come from environment variables and from the URLs of the settings. The longest comes
    first: a secret that is part of another must not be replaced before it.
    """
    given = [os.environ.get(name, "") for name in _SECRET_VARIABLES]
    found = {*given, *(value.partition(":")[2] for value in given)}  # Flower's is user:password
    if settings.broker_sentinel_password is not None:
        found.add(settings.broker_sentinel_password.get_secret_value())
    for url in (settings.database_url, settings.broker_url):
        found |= passwords_in(url.get_secret_value())
    for words in (settings.notify_secret, settings.notify_urls):
        # An address too: whoever knows it may write there, and its path is often a password.
        found |= set(words.get_secret_value().split()) if words is not None else set()
    long = (secret for secret in found if len(secret) >= max(least, 1))
    return tuple(sorted(long, key=len, reverse=True))


def _time(record: logging.LogRecord, precision: str) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec=precision)
