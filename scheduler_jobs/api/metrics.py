"""What `imagemill serve` counts, for its `/metrics`, and the middleware that counts requests."""

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REGISTRY = CollectorRegistry()

_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_OTHER = "other"
_CLIENT_GONE = "499"

REQUESTS = Counter(
    "imagemill_http_requests",
    "Requests that were answered, by method, address and status.",
    ("method", "address", "status"),
    registry=REGISTRY,
)
SECONDS = Histogram(
    "imagemill_http_seconds",
    "Seconds from a request to the end of its answer.",
    ("method", "address"),
    buckets=_SECONDS,
    registry=REGISTRY,
)
IMAGES = Counter(
    "imagemill_http_images",
    "Images that admitted requests asked for, by kind: `images` or `batch`.",
    ("kind",),
    registry=REGISTRY,
)
REFUSALS = Counter(
    "imagemill_http_refusals",
    "Answers that were errors, by the error's code.",
    ("code",),
    registry=REGISTRY,
)
WAITING = Gauge(
    "imagemill_http_waiting", "Clients that wait for their pictures now.", registry=REGISTRY
)


class Counted:
    """Counts each request and its time. Addresses are those of the routes, without ids."""

    def __init__(self, app: ASGIApp, *, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI calls it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        # Who goes away before the answer begins gets none.
        status = _CLIENT_GONE

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        method, address = self._place(scope)
        try:
            await self._app(scope, receive, watched)
        finally:
            REQUESTS.labels(method, address, status).inc()
            SECONDS.labels(method, address).observe(time.monotonic() - started)

    def _place(self, scope: Scope) -> tuple[str, str]:
        """The method and address that are asked for; what is not there is `other`."""
        for route in self._routes:
            if isinstance(route, Route) and route.matches(scope)[0] is Match.FULL:
                return scope["method"], route.path
        return _OTHER, _OTHER
