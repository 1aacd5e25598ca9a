"""Who asks, and what they may do: bearer tokens (API keys) with roles.

Until the first key is made, a server that only this machine reaches serves everybody on it;
then requests that a web page could send are refused.
"""

from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from imagemill.db.database import Database
from imagemill.db.errors import ServiceError
from imagemill.db.queries.api.keys import KeyReport, find_key, has_keys
from imagemill.db.utf8 import is_storable
from imagemill.scheduler_jobs.api.refusals import ApiError, unavailable

OPEN_PATHS = ("/healthz", "/pictures/")
"""Health, and pictures, whose addresses are signed."""

_CALLER = "imagemill.caller"


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who sent a request. `name` is empty where no key is asked for; a limit of None is none."""

    name: str = ""
    role: str = "admin"
    images_a_day: int | None = None
    open_images: int | None = None

    @property
    def sees_only(self) -> str | None:
        """Whose files and batches they see; None: everybody's."""
        return self.name if self.role == "submit" else None


class Access:
    """Lets requests with a live key through. `hosts` are the names of a server on loopback."""

    def __init__(self, app: ASGIApp, *, database: Database, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._database = database
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI calls it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            self._check_host(request)
            _check_address(request)
            if not request.url.path.startswith(OPEN_PATHS):
                scope[_CALLER] = await run_in_threadpool(self._caller, request)
        except ApiError as error:
            await error.answer()(scope, receive, send)
        except ServiceError as error:
            await unavailable(str(error)).answer()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check_host(self, request: Request) -> None:
        """A hostile page can't reach a server by a name that it gives to this machine."""
        if self._hosts is not None and request.url.hostname not in self._hosts:
            raise ApiError("This server has another name", status=403, code="wrong_host")

    def _caller(self, request: Request) -> Caller:
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        with self._database.reading() as session:
            key = find_key(session, secret.strip()) if kind.lower() == "bearer" else None
            if key is None and self._hosts is not None and not has_keys(session):
                return _local(request)
        if key is None:
            raise ApiError(
                "Incorrect API key provided" if secret else "You didn't provide an API key",
                status=401,
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return _known(key)


def _check_address(request: Request) -> None:
    """No database looks for such a text, so nothing has it as its name."""
    if not all(map(is_storable, [request.url.path, *request.query_params.values()])):
        raise ApiError("The address has a NUL character (%00)", code="invalid_url")


def caller_of(request: Request, *, writes: bool = False) -> Caller:
    """Who sent the request. Raises `ApiError` if it `writes` and their key may only read."""
    caller: Caller = request.scope[_CALLER]
    if writes and caller.role == "read":
        raise ApiError(
            f"The key {caller.name!r} may only read",
            status=403,
            kind="permission_error",
            code="insufficient_permissions",
        )
    return caller


def _local(request: Request) -> Caller:
    """Anybody on this machine, but for the pages in their browsers."""
    if "origin" in request.headers or "sec-fetch-site" in request.headers:
        raise ApiError(
            "Web pages may not use a server without keys; `imagemill keys add` makes one",
            status=403,
            code="web_page",
        )
    return Caller()


def _known(key: KeyReport) -> Caller:
    return Caller(
        name=key.name,
        role=key.role,
        images_a_day=key.images_a_day,
        open_images=key.open_images,
    )
