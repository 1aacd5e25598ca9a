"""`dispatcher`, `flower` and `migrate`: the commands of an installation."""

import os
import secrets
import socket
import sys
import threading

import click

from imagemill.db.database import Database
from imagemill.db.errors import SettingsError, UsageError
from imagemill.db.present_store import record_named_store
from imagemill.db.process.grace_period import stop_on_signals
from imagemill.db.process.logs import FLOWER_LOGIN, configure_logging
from imagemill.db.schema import migrate as upgrade
from imagemill.db.urls import without_password
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation

TASK_COLUMNS = "name,kwargs,state,result,received,runtime,worker"
"""The columns of Flower's list of shifts: the route, and the report of the shift."""


@click.command()
@pass_invocation
@output.json_option
def migrate(invocation: Invocation, as_json: bool) -> None:
    """Create or upgrade the database's tables.

    Safe to repeat, and safe to run twice at once.

    \b
    Example:
      imagemill migrate
    """
    file = invocation.database_file
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    database = Database.from_settings(invocation.settings)
    try:
        revision = upgrade(database)
        record_named_store(database, invocation.settings)
    finally:
        database.close()
    if as_json:
        output.emit({"database": database.url, "revision": revision})
    else:
        output.line(f"{database.url} is at schema {revision}")


@click.command()
@pass_invocation
@click.option("--once", is_flag=True, help="Do every duty once and end.")
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Serve /metrics for Prometheus there (default: IMAGEMILL_METRICS_PORT).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def dispatcher(invocation: Invocation, once: bool, metrics_port: int | None, as_json: bool) -> None:
    """Keep workers busy and rescue lost images.

    Wakes workers while there is work, releases the images of dead workers, and finishes jobs. One
    is enough; a second does no harm. Ends on SIGTERM or Ctrl-C.

    \b
    Example:
      imagemill dispatcher
    """
    # Importing Celery takes longer than the other commands here take to run.
    from imagemill.db.broker.wake_ups import warn_of_broker  # noqa: PLC0415  # see above
    from imagemill.scheduler_jobs.dispatcher import Dispatcher  # noqa: PLC0415  # see above
    from imagemill.scheduler_jobs.metrics import serve_fleet  # noqa: PLC0415  # see above

    if once and metrics_port is not None:
        raise UsageError("--metrics-port: with --once nobody could read what it serves")
    configure_logging(invocation.settings)
    warn_of_broker(invocation.settings)
    record_named_store(invocation.database, invocation.settings)
    work = Dispatcher(invocation.database, invocation.settings)
    if once:
        work.run_once()
        work.send_notifications()
    else:
        stop_metrics = serve_fleet(invocation.settings, port=metrics_port)
        stop = threading.Event()
        stop_on_signals(stop)
        try:
            work.run_forever(stop)
        finally:
            stop_metrics()
    if as_json:
        output.emit({"stopped": True})


@click.command()
@pass_invocation
@click.option(
    "--address",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="The address to listen on.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=5555,
    show_default=True,
    metavar="N",
    help="The port.",
)
@output.json_first_option
def flower(invocation: Invocation, address: str, port: int, as_json: bool) -> None:
    """Serve Flower, the web page of the Celery workers.

    Asks for the user and password in IMAGEMILL_FLOWER_BASIC_AUTH (user:password). Without it, a
    password is generated and shown once. Flower's /metrics and /healthcheck ask for no password:
    let it listen on loopback, or put it behind a proxy.

    \b
    Example:
      imagemill flower --port 5555
    """
    broker = without_password(invocation.settings.broker_url.get_secret_value())
    login = os.environ.get(FLOWER_LOGIN)
    if login is not None and not all(login.partition(":")):
        raise SettingsError(f"{FLOWER_LOGIN} is not user:password")
    _check_address(address, port)
    url = f"http://{address}:{port}/"
    made_up = None
    if login is None:
        made_up = secrets.token_urlsafe(18)
        login = f"imagemill:{made_up}"
    if as_json:
        output.emit(
            {"url": url, "broker": broker, "user": login.partition(":")[0], "password": made_up}
        )
    else:
        output.line(f"Flower: {url} on {broker}")
        if made_up is not None:
            output.line(f"user imagemill, password {made_up} (set {FLOWER_LOGIN} to choose)")
    sys.stdout.flush()
    # Flower takes this process's place: signals reach it, and its end is ours. The password goes
    # through the environment, because everybody on the machine can read a command line.
    environment = os.environ | {"FLOWER_BASIC_AUTH": login}
    command = [sys.executable, "-P", "-m", "imagemill.db.broker.celery_app", "flower"]
    options = [f"--address={address}", f"--port={port}", f"--tasks-columns={TASK_COLUMNS}"]
    # Without this, Flower would run a `flowerconfig.py` of the working folder.
    options.append(f"--conf={os.devnull}")
    os.execve(sys.executable, [*command, *options], environment)  # noqa: S606  # argv is ours


def _check_address(address: str, port: int) -> None:
    """Raise `UsageError` where nobody can listen: Flower would end with a traceback."""
    try:
        family, *_, place = socket.getaddrinfo(address or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        raise UsageError(
            f"{address}:{port}: {error.strerror}; --address and --port name another"
        ) from None
