"""The checks of `doctor`. Each is a function that returns what it found, or raises.

Details never contain a secret: URLs come without passwords, and the passwords that this process
knows are removed from the error messages of libraries.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sqlalchemy import exc

from imagemill.db.broker.wake_ups import Tokens
from imagemill.db.database import Database
from imagemill.db.engines import sqlite_file
from imagemill.db.errors import (
    BrokerError,
    DatabaseError,
    ImagemillError,
    ModelError,
    SchemaError,
    ServiceError,
    StorageDenied,
    UsageError,
    first_line,
)
from imagemill.db.labels import workers_labels
from imagemill.db.models.components import weights_digest
from imagemill.db.models.embeddings import check_embeddings
from imagemill.db.models.entry_checks import check_entry
from imagemill.db.models.registry import load_registry
from imagemill.db.process.logs import secrets_of
from imagemill.db.queries.fleet.reports import list_workers
from imagemill.db.schema import check_schema, head
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.db.storage.folder import FolderStorage
from imagemill.db.urls import without_password
from imagemill.scheduler_jobs.cli.exit_codes import EXIT_OK, EXIT_SERVICE, EXIT_USAGE
from imagemill.scheduler_jobs.cli.invocation import open_database
from imagemill.scheduler_jobs.notifications.receivers import Receivers
from imagemill.scheduler_jobs.prices import read_prices
from imagemill.scheduler_jobs.retention import pruned_labels
from imagemill.scheduler_jobs.submit.planning.planner import defaults_of

Status = Literal["ok", "failed", "note"]

DEVICE_SECONDS = 120
"""The time that importing torch and finding the device may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """The result of one check. If it failed, `mend` says what to do. A note needs no action."""

    name: str
    status: Status
    detail: str
    mend: str | None = None
    exit_code: int = EXIT_OK


class _Note(Exception):
    """A result that is worth saying but is no failure."""


def check_settings() -> tuple[Check, Settings | None]:
    """Whether the settings can be read. If not, nothing else can be checked."""
    name = "settings"
    try:
        settings = Settings.load()
        _read_texts(settings)
    except UsageError as error:
        mend = "correct that variable, or imagemill.toml"
        return _failed(name, error, mend), None
    file = os.environ.get("IMAGEMILL_CONFIG", "imagemill.toml")
    set_here = sorted(name for name in os.environ if name.startswith("IMAGEMILL_"))
    from_file = file if os.path.isfile(file) else "no imagemill.toml"  # noqa: PTH113  # text only
    detail = f"{from_file}; set: {', '.join(set_here)}" if set_here else from_file
    return Check(name=name, status="ok", detail=detail), settings


def _read_texts(settings: Settings) -> None:
    """Read the settings that one process reads alone, the dispatcher, workers or `cost`.

    Raises `UsageError` for a text that they could not use.
    """
    Receivers.from_settings(settings)
    read_prices(settings.prices)
    workers_labels(settings.labels)
    pruned_labels(settings)


def check_services(settings: Settings, *, embedded: bool) -> Iterator[Check]:
    """All other checks, one after the other. `embedded` (with `--home`) needs no broker."""
    checks: Sequence[tuple[str, Callable[[Settings], str], str]] = (
        (
            "database",
            _database,
            _mend_database(settings),
        ),
        (
            "broker",
            _no_broker if embedded else _broker,
            "start Valkey or Redis, or correct IMAGEMILL_BROKER_URL",
        ),
        (
            "storage",
            _storage,
            "start it, or correct IMAGEMILL_STORAGE_URL, IMAGEMILL_S3_ENDPOINT_URL and the AWS "
            "credentials",
        ),
        (
            "models",
            _models,
            "pull or correct the model, or name another in IMAGEMILL_DEFAULT_MODEL",
        ),
        ("device", _device, "correct IMAGEMILL_DEVICE or the driver, or install torch"),
        ("workers", _workers, "`imagemill worker` starts one"),
    )
    secrets = secrets_of(settings, least=1)
    for name, function, mend in checks:
        yield _run(name, function, mend, settings, secrets)


def worst(checks: Sequence[Check]) -> int:
    """The exit code for all checks together."""
    return max((check.exit_code for check in checks), default=EXIT_OK)


def _run(
    name: str,
    function: Callable[[Settings], str],
    mend: str,
    settings: Settings,
    secrets: Sequence[str],
) -> Check:
    try:
        found = Check(name=name, status="ok", detail=function(settings))
    except _Note as note:
        found = Check(name=name, status="note", detail=str(note))
    except SchemaError as error:
        found = _failed(name, error, "run `imagemill migrate`, with the newest version")
    except StorageDenied as error:
        mend = "create the bucket or folder, or correct the AWS credentials"
        found = _failed(name, error, mend)
    except ImagemillError as error:
        found = _failed(name, error, mend)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        found = _failed(name, UsageError(said), "let this user read and write there")
    return _redacted(found, secrets)


def _failed(name: str, error: ImagemillError, mend: str) -> Check:
    code = EXIT_SERVICE if isinstance(error, ServiceError) else EXIT_USAGE
    return Check(name=name, status="failed", detail=error.message, mend=mend, exit_code=code)


def _mend_database(settings: Settings) -> str:
    if sqlite_file(settings.database_url.get_secret_value()) is None:
        return "start it, or correct IMAGEMILL_DATABASE_URL"
    return "run `imagemill migrate`, or name the right one: --home DIR or IMAGEMILL_DATABASE_URL"


def _database(settings: Settings) -> str:
    file = sqlite_file(settings.database_url.get_secret_value())
    if "database_url" not in settings.model_fields_set and file is not None and not file.exists():
        raise _Note("none is set up; `imagemill run` makes one in its folder")
    with _opened(settings) as database:
        check_schema(database)
        return f"{database.url}, schema {head()}"


def _no_broker(settings: Settings) -> str:
    del settings
    raise _Note("not needed: `imagemill run` starts its own")


def _broker(settings: Settings) -> str:
    tokens = Tokens(settings)
    try:
        waiting = tokens.waiting(settings.route)
    except BrokerError as error:
        if (
            "broker_url" in settings.model_fields_set
            or sqlite_file(settings.database_url.get_secret_value()) is None
        ):
            raise
        raise _Note(
            f"none is set up; `imagemill run` starts its own, other workers need one ({error})"
        ) from None
    finally:
        tokens.close()
    url = without_password(settings.broker_url.get_secret_value())
    return f"{url}, {waiting} tokens wait for route {settings.route}"


def _storage(settings: Settings) -> str:
    storage = open_storage(settings)
    folder = Path(storage.uri)
    if isinstance(storage, FolderStorage) and not folder.exists():
        # Trying it out would create it, wherever somebody happens to stand.
        above = next(path for path in folder.parents if path.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise StorageDenied(
                f"the folder {folder} is not there, and can't be created in {above}"
            )
        raise _Note(f"the folder {folder} is not there yet; the first picture creates it")
    return storage.probe()


def _models(settings: Settings) -> str:
    registry = load_registry(settings)
    here, absent = [], []
    for name, entry in registry.models.items():
        try:
            digest = weights_digest(entry)
            check_embeddings(entry)
            check_entry(entry, registry)
            defaults_of(entry)
            here.append(f"{name} {digest[:10]}")
        except ModelError as error:
            if name == settings.default_model:
                raise
            absent.append(error.message)
    registry.find(settings.default_model)
    for entries in (registry.adapters, registry.controlnets, registry.ip_adapters):
        absent += [each.problem for each in entries.values() if each.problem]
    if absent:
        raise _Note(f"{', '.join(here)}; {'; '.join(absent)}")
    return ", ".join(here)


def _device(settings: Settings) -> str:
    """The device that the worker's side finds, in its own process, because that imports torch."""
    del settings
    command = [sys.executable, "-P", "-m", "imagemill.worker.models.device"]
    try:
        done = subprocess.run(  # noqa: S603  # argv is ours
            command, capture_output=True, text=True, timeout=DEVICE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"no answer from the device within {DEVICE_SECONDS} s") from None
    said = done.stdout.strip().splitlines()
    if done.returncode == 0 and said:
        return said[-1]
    complaint = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
    if "ModuleNotFoundError" in complaint or "No module named" in complaint:
        raise _Note(f"the GPU side is not installed here ({complaint})")
    raise UsageError(complaint.removeprefix("error: "))


def _workers(settings: Settings) -> str:
    try:
        with _opened(settings) as database, database.reading() as session:
            workers = [worker for worker in list_workers(session) if not worker.lost]
    except (DatabaseError, SchemaError, UsageError):
        raise _Note("unknown without the database") from None
    if not workers:
        raise _Note("none alive; `imagemill worker` starts one")
    return ", ".join(f"{worker.name} on {worker.device}" for worker in workers)


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    try:
        database = open_database(settings.database_url.get_secret_value())
        try:
            yield database
        finally:
            database.close()
    except exc.DBAPIError as error:
        url = without_password(settings.database_url.get_secret_value())
        raise DatabaseError(f"{url}: {first_line(error.orig or error)}") from None


def _redacted(check: Check, secrets: Sequence[str]) -> Check:
    detail = check.detail
    for secret in secrets:
        detail = detail.replace(secret, "***")
    return replace(check, detail=detail)
