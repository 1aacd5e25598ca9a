"""The worker's commands. None imports torch before it needs it; see `process/start_method.py`."""

import json
import os
import re
import sys
from contextlib import closing
from pathlib import Path

import click

from imagemill.db.broker.wake_ups import TASKS, queue_name, warn_of_broker
from imagemill.db.database import Database
from imagemill.db.labels import workers_labels
from imagemill.db.process.logs import configure_logging
from imagemill.db.schema import ensure_schema
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from imagemill.db.storage.folder import FolderStorage
from imagemill.worker.process import drain
from imagemill.worker.process.metrics_folder import serve_children
from imagemill.worker.process.profile import profile_into
from imagemill.worker.process.start_method import start_method

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _plain_name(ctx: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    """Check a worker's name: it appears in Flower's pages and metrics and in every log line."""
    del ctx, parameter
    if name is not None and _NAME.fullmatch(name) is None:
        raise click.BadParameter(f"{name!r}; allowed: 1 to 64 letters, digits, _, . and -")
    return name


@click.command()
@click.option(
    "--route",
    metavar="ROUTE",
    help="Render the jobs of this route (`submit --route`) alone (default: `default`).",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="A label, which jobs may need (`submit --needs`); may be repeated.",
)
@click.option(
    "--children",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes that render (default: one for each GPU, or on a CPU for each core).",
)
@click.option(
    "--name",
    callback=_plain_name,
    metavar="NAME",
    help="The worker's name (default: its route and process id).",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Serve /metrics for Prometheus there (default: IMAGEMILL_METRICS_PORT).",
)
@click.option(
    "--profile",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Profile twenty steps of the first child: a trace for Perfetto, and a table beside it.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Write the log as JSON, and one object at the end."
)
def worker(
    route: str | None,
    labels: tuple[str, ...],
    children: int | None,
    name: str | None,
    metrics_port: int | None,
    profile: Path | None,
    as_json: bool,
) -> None:
    """Render queued images until stopped.

    SIGTERM or Ctrl-C drains the worker: it stops after the current step and gives back its images.
    Its output is its log. With --json each line of the log is one JSON object, and standard output
    ends with one.

    \b
    Example:
      imagemill worker --children 2
    """
    if as_json:
        os.environ["IMAGEMILL_LOG_FORMAT"] = "json"  # for the children too
    if metrics_port is not None:
        os.environ["IMAGEMILL_METRICS_PORT"] = str(metrics_port)
    if labels:
        os.environ["IMAGEMILL_LABELS"] = ",".join(labels)
    settings = Settings.load()
    workers_labels(settings.labels)
    configure_logging(settings)  # before Celery, which logs warnings before it sets up logging
    warn_of_broker(settings)
    _check_places(settings)
    route = route or settings.route
    stop_metrics = serve_children(settings)
    drain.prepare_parent()
    os.environ["IMAGEMILL_ROUTE"] = route
    if profile is not None:
        profile_into(profile)
    from imagemill.worker.app import app  # noqa: PLC0415  # reads the environment that was just set
    from imagemill.worker.process.pool import exit_status  # noqa: PLC0415  # imports Celery's pool

    app.conf.worker_pool_start_method = start_method(settings)
    try:
        app.worker_main(
            [
                "--quiet",  # Celery's banner is not a log line
                "worker",
                "--pool=prefork",  # stands for the pool that the application names
                f"--concurrency={children or settings.children or _default_children(settings)}",
                f"--queues={','.join(queue_name(route, task) for task in TASKS)}",
                f"--hostname={name or f'{route}-{os.getpid()}'}@%h",
                "--events",
                "--without-gossip",
                "--without-mingle",
            ]
        )
    finally:
        stop_metrics()
    if as_json:
        click.echo(json.dumps({"stopped": True}))
    sys.exit(exit_status())


def _check_places(settings: Settings) -> None:
    """Raise at once what every child would end with, and be started again and again."""
    database = Database.from_settings(settings)
    ensure_schema(database)
    database.check_writable()
    database.close()
    storage = open_storage(settings)
    if isinstance(storage, FolderStorage):
        storage.probe()


def _default_children(settings: Settings) -> int:
    """One child for each GPU. Without a GPU: the number of cores divided by `threads`."""
    if settings.device != "cpu":
        gpus = _gpu_count()
        if gpus:
            return gpus
    return max(1, len(os.sched_getaffinity(0)) // settings.threads)


def _gpu_count() -> int:
    """The number of GPUs, from the driver's files: with GPUs the parent must not import torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([gpu for gpu in visible.split(",") if gpu and gpu != "-1"])
    try:
        return sum(1 for _ in Path("/proc/driver/nvidia/gpus").iterdir())
    except OSError:
        return 0


_SAMPLE = 50
"""How many images of a job `reproduce` takes if nothing else is said."""


@click.command()
@click.argument("what", nargs=-1, metavar="[IMAGE|FILE]...")
@click.option("--job", metavar="JOB", help="Also images of this job: an id, a name or `latest`.")
@click.option(
    "--sample",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help=f"How many of the job's images, chosen at random.  [default: {_SAMPLE}]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON lines; the last one has the totals."
)
def reproduce(what: tuple[str, ...], job: str | None, sample: int | None, as_json: bool) -> None:
    """Render images again and compare the pixels.

    An IMAGE is an id in the database. A FILE (PNG, JPEG or WebP) needs no database. The exit code
    is 1 if pixels differ in the same environment, or if an image can't be rendered.

    \b
    Example:
      imagemill reproduce --job latest --sample 50
      imagemill reproduce picture.png
    """
    if sample is not None and job is None:
        raise click.UsageError("--sample has no effect without --job")
    settings = Settings.load()
    if job is not None or any(word.isdecimal() for word in what):
        with closing(Database.from_settings(settings)) as database:
            ensure_schema(database)
    # Only this command needs torch in its own process; what is wrong was said before that.
    from imagemill.worker.cli import reproduce as reproducing  # noqa: PLC0415  # see above

    samples = reproducing.collect(settings, what=what, job=job, sample=sample or _SAMPLE)
    if not samples:
        raise click.UsageError("nothing to reproduce: name images or files, or give --job")
    if not reproducing.report(samples, settings, as_json=as_json):
        sys.exit(1)
