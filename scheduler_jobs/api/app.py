"""The API as an ASGI application: addresses, who may use them, and how errors are told."""

from sqlalchemy import text
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from imagemill.db.database import Database
from imagemill.db.errors import ImagemillError, ServiceError
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.api.access import Access
from imagemill.scheduler_jobs.api.admission import ApiLimits
from imagemill.scheduler_jobs.api.endpoints.batches import Batches
from imagemill.scheduler_jobs.api.endpoints.files import Files
from imagemill.scheduler_jobs.api.endpoints.images import Images
from imagemill.scheduler_jobs.api.endpoints.models import Models
from imagemill.scheduler_jobs.api.loader import Loader
from imagemill.scheduler_jobs.api.metrics import Counted
from imagemill.scheduler_jobs.api.refusals import ApiError, unavailable


def api_app(
    database: Database,
    storage: Storage,
    settings: Settings,
    *,
    loader: Loader,
    hosts: frozenset[str] | None,
    limits: ApiLimits,
) -> Starlette:
    """The application. `hosts` are the names of a server on loopback; None: it needs keys."""
    models = Models(settings)
    local = hosts is not None
    images = Images(database, storage, settings, loader=loader, limits=limits, local=local)

    files = Files(database, storage, limits=limits)
    batches = Batches(database, settings, loader=loader, limits=limits)

    def health(request: Request) -> Response:
        with database.reading() as session:
            session.execute(text("SELECT 1"))
        return JSONResponse({"status": "ok"})

    routes = [
        Route("/healthz", health),
        Route("/pictures/{image:int}", images.picture),
        Route("/v1/models", models.every),
        Route("/v1/models/{model}", models.one),
        Route("/v1/images/generations", images.generate, methods=["POST"]),
        Route("/v1/chat/completions", images.chat, methods=["POST"]),
        Route("/v1/images/edits", images.edit, methods=["POST"]),
        Route("/v1/files", files.upload, methods=["POST"]),
        Route("/v1/files", files.every),
        Route("/v1/files/{file}", files.one),
        Route("/v1/files/{file}", files.delete, methods=["DELETE"]),
        Route("/v1/files/{file}/content", files.content),
        Route("/v1/batches", batches.create, methods=["POST"]),
        Route("/v1/batches", batches.every),
        Route("/v1/batches/{batch}", batches.one),
        Route("/v1/batches/{batch}/cancel", batches.cancel, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Counted, routes=routes),
            Middleware(Access, database=database, hosts=hosts),
        ],
        exception_handlers={
            ApiError: _told,
            ImagemillError: _trouble,
            HTTPException: _no_such_address,
            Exception: _bug,
        },
    )


def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.answer()


def _trouble(request: Request, error: Exception) -> Response:
    """A service is away; or something is wrong with the server's own set-up."""
    if isinstance(error, ServiceError):
        return unavailable("A service behind this one does not answer").answer()
    return ApiError(str(error), status=500, kind="server_error", code="misconfigured").answer()


def _no_such_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {
        404: ("Invalid URL", "unknown_url"),
        405: ("Not allowed at this URL", "method_not_supported"),
    }
    what, code = said.get(error.status_code, (error.detail, None))
    message = f"{what} ({request.method} {request.url.path})"
    return ApiError(message, status=error.status_code, code=code).answer()


def _bug(request: Request, error: Exception) -> Response:
    return ApiError(
        "The server had an error; its log says which",
        status=500,
        kind="server_error",
        code="internal_error",
    ).answer()
