"""`GET /v1/models`: the models of the registry."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.api.access import caller_of
from imagemill.scheduler_jobs.api.refusals import not_found


class Models:
    """What may be asked for as `model`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def every(self, request: Request) -> Response:
        """All models."""
        caller_of(request)
        found = [_described(name) for name in load_registry(self._settings).models]
        return JSONResponse({"object": "list", "data": found})

    def one(self, request: Request) -> Response:
        """One model by its name."""
        caller_of(request)
        name = request.path_params["model"]
        if name not in load_registry(self._settings).models:
            raise not_found("model", name)
        return JSONResponse(_described(name))


def _described(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "imagemill"}
