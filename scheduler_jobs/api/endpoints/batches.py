"""`/v1/batches`: a file of requests becomes a job, and its results two files."""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imagemill.db.database import Database
from imagemill.db.queries.api import files, requests
from imagemill.db.queries.api.requests import BATCH
from imagemill.db.settings import Settings
from imagemill.db.states import ApiState
from imagemill.scheduler_jobs.api import admission
from imagemill.scheduler_jobs.api.access import Caller, caller_of
from imagemill.scheduler_jobs.api.admission import ApiLimits
from imagemill.scheduler_jobs.api.batch_files.lines import COUNTING, read_batch
from imagemill.scheduler_jobs.api.batch_files.results import file_ids
from imagemill.scheduler_jobs.api.endpoints.files import FOR_BATCHES
from imagemill.scheduler_jobs.api.loader import Loader
from imagemill.scheduler_jobs.api.refusals import NOT_AGAIN, ApiError, not_found
from imagemill.scheduler_jobs.api.requests.bodies import read_json, read_page

_FIELDS = ("input_file_id", "endpoint", "completion_window")
_WINDOW = re.compile(r"([1-9][0-9]{0,3})([hd])")
_HOURS = {"h": 1, "d": 24}
_MOST_HOURS = 30 * 24
_MOST_METADATA = 16
_MOST_LISTED = 100


class Batches:
    """The addresses of batches."""

    def __init__(
        self, database: Database, settings: Settings, *, loader: Loader, limits: ApiLimits
    ) -> None:
        self._database = database
        self._settings = settings
        self._loader = loader
        self._limits = limits

    async def create(self, request: Request) -> Response:
        """Record a batch, which is loaded soon; the batch."""
        caller = caller_of(request, writes=True)
        body = await read_json(request)
        hours = _check(body)
        key = request.headers.get("idempotency-key")
        made = await run_in_threadpool(self._record, caller, body, key, hours)
        return JSONResponse(made)

    def every(self, request: Request) -> Response:
        """Batches, newest first."""
        caller = caller_of(request)
        page = read_page(request, most=_MOST_LISTED, usual=20)
        with self._database.reading() as session:
            found = requests.list_batches(
                session, owner=caller.sees_only, limit=page.limit + 1, after=page.after
            )
            described = [_described(session, each) for each in found]
        return JSONResponse(page.body(described))

    def one(self, request: Request) -> Response:
        """A batch as it is now."""
        caller = caller_of(request)
        with self._database.reading() as session:
            return JSONResponse(_described(session, _found(session, request, caller)))

    def cancel(self, request: Request) -> Response:
        """Cancel what is left of a batch."""
        caller = caller_of(request, writes=True)

        def work(session: Session) -> dict[str, Any]:
            batch = _found(session, request, caller)
            requests.cancel_request(session, batch.id)
            after = _found(session, request, caller)
            if after.state not in (ApiState.CANCELLING, ApiState.CANCELLED):
                raise ApiError(
                    f"Cannot cancel a batch with status '{after.state}'.",
                    status=409,
                    code="not_cancellable",
                    headers=NOT_AGAIN,
                )
            return _described(session, after)

        return JSONResponse(self._database.run(work))

    def _record(
        self, caller: Caller, body: Mapping[str, Any], key: str | None, hours: int
    ) -> dict[str, Any]:
        new = admission.new_request(BATCH, caller, body, key=key, images=0)
        with self._database.reading() as session:
            known = admission.repeated(session, new)
            if known is not None:
                return _described(session, known)
            content = self._content(session, caller, body["input_file_id"])
        new = admission.with_document(
            new,
            {**{name: body[name] for name in _FIELDS}, "metadata": body.get("metadata")},
            images=read_batch(content, body["endpoint"]).images,
            seconds=hours * 3600.0,
        )
        route = self._settings.route
        recorded = self._database.run(
            lambda session: admission.admit(session, caller, new, limits=self._limits, route=route)
        )
        admission.count_admitted(new, recorded)
        self._loader.take(recorded.id)
        with self._database.reading() as session:
            return _described(session, recorded)

    def _content(self, session: Session, caller: Caller, file_id: str) -> bytes:
        file = files.find_file(session, file_id, owner=caller.sees_only)
        content = None if file is None else files.file_content(session, file_id)
        if file is None or content is None:
            raise _bad_file(f"No such File object: {file_id[:80]}")
        if file.purpose != FOR_BATCHES:
            raise _bad_file(
                f"Invalid file purpose: {file.purpose!r}, of {file_id[:80]}; a batch reads a file "
                f"that was uploaded with {FOR_BATCHES!r}"
            )
        return content


def _bad_file(message: str) -> ApiError:
    return ApiError(message, param="input_file_id", code="invalid_file")


def _found(session: Session, request: Request, caller: Caller) -> requests.Request:
    batch_id = request.path_params["batch"]
    found = requests.find_request(session, batch_id, owner=caller.sees_only, kind=BATCH)
    if found is None:
        raise not_found("Batch", batch_id)
    return found


def _check(body: Mapping[str, Any]) -> int:
    """The hours that a batch may take. Raises `ApiError` for a body that is no batch."""
    for name in _FIELDS:
        if not isinstance(body.get(name), str):
            raise ApiError(
                f"Missing required parameter: {name!r}",
                param=name,
                code="missing_required_parameter",
            )
    unknown = sorted(set(body) - {*_FIELDS, "metadata"})
    if unknown:
        raise ApiError(
            f"Unknown parameter: {unknown[0][:80]!r}",
            param=unknown[0][:200],
            code="unknown_parameter",
        )
    if body["endpoint"] not in COUNTING:
        raise ApiError(
            f"Invalid endpoint; allowed: {' and '.join(COUNTING)}",
            param="endpoint",
            code="invalid_value",
        )
    _check_metadata(body.get("metadata"))
    window = _WINDOW.fullmatch(body["completion_window"])
    hours = 0 if window is None else int(window[1]) * _HOURS[window[2]]
    if not 0 < hours <= _MOST_HOURS:
        raise ApiError(
            "Invalid completion_window: 24h, or another number of hours or days up to 30d",
            param="completion_window",
            code="invalid_value",
        )
    return hours


def _check_metadata(given: Any) -> None:
    if given is None:
        return
    good = isinstance(given, dict) and len(given) <= _MOST_METADATA
    if not good or not all(
        len(name) <= 64 and isinstance(value, str) and len(value) <= 512
        for name, value in given.items()
    ):
        raise ApiError(
            f"metadata: at most {_MOST_METADATA} texts of up to 512 characters, by names of up "
            "to 64",
            param="metadata",
            code="invalid_value",
        )


def _described(session: Session, batch: requests.Request) -> dict[str, Any]:
    """A batch in OpenAI's shape."""
    state = batch.state
    ended = _epoch(batch.ended_at)
    output, errors = file_ids(batch)
    cancelled = state in (ApiState.CANCELLING, ApiState.CANCELLED)
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.document["endpoint"],
        "model": None,
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "input_file_id": batch.document["input_file_id"],
        "completion_window": batch.document["completion_window"],
        "status": state,
        "output_file_id": output,
        "error_file_id": errors,
        "created_at": _epoch(batch.created_at),
        "in_progress_at": _epoch(batch.loaded_at),
        "expires_at": _epoch(batch.expires_at),
        "finalizing_at": ended if state is ApiState.COMPLETED else None,
        "completed_at": ended if state is ApiState.COMPLETED else None,
        "failed_at": ended if state is ApiState.FAILED else None,
        "expired_at": ended if state is ApiState.EXPIRED else None,
        "cancelling_at": _epoch(batch.cancelling_at) if cancelled else None,
        "cancelled_at": ended if state is ApiState.CANCELLED else None,
        "request_counts": _counts(session, batch),
        "metadata": batch.document["metadata"],
    }


def _counts(session: Session, batch: requests.Request) -> dict[str, int]:
    if batch.counts:
        return {name: int(batch.counts[name]) for name in ("total", "completed", "failed")}
    if batch.job_id is None:
        return {"total": 0, "completed": 0, "failed": 0}
    lines, refused = requests.count_lines(session, batch.job_id), len(batch.refused)
    return {
        "total": lines.total + refused,
        "completed": lines.completed,
        "failed": lines.failed + refused,
    }


def _epoch(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp())
