"""The page `/metrics` of a process, for Prometheus."""

import logging
from collections.abc import Callable

from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server

from imagemill.db.errors import SettingsError
from imagemill.db.settings import Settings

log = logging.getLogger(__name__)


def serve_metrics(
    registry: CollectorRegistry, settings: Settings, *, port: int | None = None
) -> Callable[[], None]:
    """Serve the registry in a thread, on `port` or that of the settings; the result stops it.

    Without a port, nothing is served. Raises `SettingsError` if nobody can listen there.
    """
    port, address = port or settings.metrics_port, settings.metrics_address
    if port is None:
        return lambda: None
    disable_created_metrics()  # type: ignore[no-untyped-call]  # when each counter began: noise
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise SettingsError(
            f"IMAGEMILL_METRICS_PORT: {address}:{port}: {error.strerror or error}; "
            "each process on a machine needs a port of its own (--metrics-port)"
        ) from None
    log.info("metrics are at http://%s:%s/metrics", address, port)

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return close
