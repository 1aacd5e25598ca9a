"""`serve`: OpenAI's API for images and batches."""

import click

from imagemill.db.errors import UsageError
from imagemill.db.present_store import record_named_store
from imagemill.db.process.logs import configure_logging
from imagemill.db.process.metrics_page import serve_metrics
from imagemill.db.queries.api.keys import live_keys
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs.cli.arguments import listen_options
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation

_MEBI = 1 << 20


@click.command()
@pass_invocation
@listen_options(port=8422)
@click.option(
    "--wait",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a request waits for its pictures; its job goes on after that.",
)
@click.option(
    "--max-backlog",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    metavar="N",
    help="Take no request while so many images are waiting.",
)
@click.option(
    "--max-file",
    type=click.IntRange(1, 512),
    default=64,
    show_default=True,
    metavar="MIB",
    help="The largest file of a batch, or picture of an edit.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Serve /metrics for Prometheus there (default: IMAGEMILL_METRICS_PORT).",
)
@output.json_first_option
def serve(
    invocation: Invocation,
    host: str,
    port: int,
    wait: float,
    max_backlog: int,
    max_file: int,
    metrics_port: int | None,
    as_json: bool,
) -> None:
    """Serve OpenAI's API for images and batches over the same jobs.

    Any OpenAI client renders here: POST /v1/images/generations, /v1/images/edits, /v1/files,
    /v1/batches. Without keys it serves this machine alone; `imagemill keys add` makes one. Workers
    and a dispatcher do the work, as for `imagemill submit`. Runs until Ctrl-C or SIGTERM.

    \b
    Example:
      imagemill serve

    \f
    More than seven parameters: they are the command's options.
    """
    # Imported here: no other command needs a web server.
    from imagemill.scheduler_jobs import web_server  # noqa: PLC0415
    from imagemill.scheduler_jobs.api.admission import ApiLimits  # noqa: PLC0415
    from imagemill.scheduler_jobs.api.app import api_app  # noqa: PLC0415
    from imagemill.scheduler_jobs.api.loader import Loader  # noqa: PLC0415
    from imagemill.scheduler_jobs.api.metrics import REGISTRY  # noqa: PLC0415

    database, settings = invocation.database, invocation.settings
    database.check_writable()
    if not web_server.is_loopback(host):
        _check_keys(invocation, host)
    configure_logging(settings)
    storage = open_storage(settings)
    record_named_store(database, settings)
    with web_server.listen(host, port) as listening:
        loader = Loader(database, settings)
        app = api_app(
            database,
            storage,
            settings,
            loader=loader,
            hosts=web_server.names_of(host),
            limits=ApiLimits(wait_seconds=wait, backlog=max_backlog, file_bytes=max_file * _MEBI),
        )
        port = listening.getsockname()[1]
        url = f"{web_server.base_address(host, port)}/v1"

        def ready() -> None:
            loader.start()
            _tell(url, host, port, as_json=as_json)

        stop_metrics = serve_metrics(REGISTRY, settings, port=metrics_port)
        web_server.serve(app, listening, ready=ready)
        loader.stop()
        stop_metrics()


def _tell(url: str, host: str, port: int, *, as_json: bool) -> None:
    if as_json:
        output.emit({"url": url, "host": host, "port": port})
    else:
        output.line(f"OpenAI clients find it with OPENAI_BASE_URL={url}")
        output.line("Ctrl-C ends it", error=True)


def _check_keys(invocation: Invocation, host: str) -> None:
    with invocation.reading() as session:
        if live_keys(session) == 0:
            raise UsageError(
                f"--host {host}: other machines could reach it, and there are no keys; "
                "`imagemill keys add NAME` makes one"
            )
