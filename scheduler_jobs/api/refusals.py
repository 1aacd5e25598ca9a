"""What a client is told when it does not get what it asked for, in the shape of OpenAI's API."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from imagemill.db.utf8 import is_storable
from imagemill.scheduler_jobs.api import metrics
from imagemill.scheduler_jobs.manifest.problems import shown

NOT_AGAIN = {"x-should-retry": "false"}
"""Tells OpenAI's clients not to send the same request again by themselves."""


class ApiError(Exception):
    """A refused request: its status, and the four parts of the error in the answer.

    `param` is the parameter that is wrong, `code` a stable word for programs.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The answer's body."""
        error = {
            "message": str(self),
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def answer(self) -> Response:
        """The answer, which is counted."""
        metrics.REFUSALS.labels(self.code or "other").inc()
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


def bad_value(name: str, value: Any, allowed: str) -> ApiError:
    """A parameter's value can't be used; `allowed` says which could."""
    return ApiError(
        f"Invalid value for {name!r}: {shown(value)}; allowed: {allowed}",
        param=name,
        code="invalid_value",
    )


def missing(name: str, what: str) -> ApiError:
    """A parameter is not there; `what` says what it must be."""
    return ApiError(
        f"Missing required parameter: {name!r}, {what}",
        param=name,
        code="missing_required_parameter",
    )


def unknown(name: str) -> ApiError:
    """Nobody knows a parameter of this name."""
    return ApiError(
        f"Unknown parameter: {shown(name)}", param=answerable(name), code="unknown_parameter"
    )


def answerable(name: str) -> str:
    """The beginning of a name that was sent, as an answer and a database can hold it."""
    begun = name[:200]
    return begun if is_storable(begun) else begun.encode("unicode_escape").decode()


def unstorable(name: str) -> ApiError:
    """A value, or a parameter's own name, has characters that no database takes."""
    return ApiError(
        f"Invalid value for {answerable(name[:80])!r}: a NUL character or half of a surrogate "
        "pair; allowed: text without them",
        param=answerable(name[:80]),
        code="invalid_value",
    )


def not_found(what: str, name: str) -> ApiError:
    """There is no such thing, or it is somebody else's."""
    return ApiError(f"No such {what}: {name[:80]}", status=404, param="id", code="not_found")


def too_many(message: str, *, code: str, seconds: int) -> ApiError:
    """A limit was reached; the same request may be sent again after some seconds."""
    return ApiError(
        message,
        status=429,
        kind="rate_limit_error",
        code=code,
        headers={"retry-after": str(max(1, seconds))},
    )


def unavailable(message: str) -> ApiError:
    """A service behind this one does not answer."""
    return ApiError(
        message,
        status=503,
        kind="server_error",
        code="unavailable",
        headers={"retry-after": "5"},
    )
