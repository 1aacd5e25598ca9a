"""Who may see the gallery: whoever has its token, from a page of its own, by its own name.

The token stands in the address that is opened first, and becomes a cookie. Requests for another
host's name are refused, so a hostile page can't reach the gallery by a name that it gives to this
machine. Requests that write must come from the gallery's own page.
"""

import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagemill.db.utf8 import is_storable

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a page may load: scripts, styles and pictures of the gallery itself, nothing inline."""

_HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
"""Headers of every answer, unless it has its own."""

_READING = ("GET", "HEAD")


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The secrets of one gallery, and the names by which it may be called (None: any name)."""

    hosts: frozenset[str] | None
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def cookie(self) -> str:
        """The cookie's name: browsers give cookies to every port of a host."""
        return f"imagemill_gallery_{self.port}"


class Access:
    """Lets those through who may; every answer gets the headers that keep a browser strict."""

    def __init__(self, app: ASGIApp, *, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI calls it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message)
            await send(message)

        app = self._answer(Request(scope)) or self._app
        await app(scope, receive, strict)

    def _answer(self, request: Request) -> Response | None:
        """The answer to a request that does not reach the pages; None for one that does."""
        hosts = self._keys.hosts
        if hosts is not None and request.url.hostname not in hosts:
            return _refused("this gallery has another name")
        if not all(map(is_storable, [request.url.path, *request.query_params.values()])):
            return PlainTextResponse("no address has a NUL character (%00)\n", status_code=400)
        if "token" in request.query_params:
            return self._first(request)
        cookie = request.cookies.get(self._keys.cookie, "")
        if not _same(cookie, self._keys.session):
            return _refused("open the address that `imagemill gallery` printed")
        if request.method not in _READING and not _is_own(request):
            return _refused("only the gallery's own page may write")
        return None

    def _first(self, request: Request) -> Response:
        if request.method not in _READING or not _same(
            request.query_params["token"], self._keys.token
        ):
            return _refused("this is not the token that `imagemill gallery` printed")
        answer = RedirectResponse(request.url.path, status_code=303)
        answer.set_cookie(self._keys.cookie, self._keys.session, httponly=True, samesite="strict")
        return answer


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())


def _is_own(request: Request) -> bool:
    """Whether a script of the gallery's own page sent it; a form of another page can't be it."""
    try:
        origin = urlsplit(request.headers.get("origin", ""))
    except ValueError:  # an address with an open bracket
        return False
    return (
        origin.netloc == request.headers.get("host")
        and request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
        and request.headers.get("content-type", "").partition(";")[0] == "application/json"
    )


def _refused(why: str) -> Response:
    return PlainTextResponse(f"{why}\n", status_code=403)


def _add_headers(message: MutableMapping[str, object]) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
