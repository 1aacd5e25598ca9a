"""Makes jobs of recorded requests, and ends requests whose jobs are over.

A request is recorded before anything else, and loading it again finds the same job. So a server
may die at any moment: the next one, or another one on the same database, goes on.
"""

import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from imagemill.db.clock import now
from imagemill.db.database import Database
from imagemill.db.errors import ImagemillError, ManifestError, ServiceError, UsageError
from imagemill.db.queries.api import requests
from imagemill.db.queries.api.files import file_content
from imagemill.db.queries.api.requests import BATCH, Request
from imagemill.db.queries.jobs import lifecycle
from imagemill.db.queries.tallies import count_images
from imagemill.db.settings import Settings
from imagemill.db.states import ApiState
from imagemill.db.storage.factory import open_storage
from imagemill.scheduler_jobs.api.batch_files.lines import (
    EDITS,
    Line,
    ReadBody,
    numbered,
    read_batch,
    refusal,
)
from imagemill.scheduler_jobs.api.batch_files.pictures import BatchPictures
from imagemill.scheduler_jobs.api.refusals import ApiError
from imagemill.scheduler_jobs.api.requests.edits import read_edit_body
from imagemill.scheduler_jobs.api.requests.generation import Generation
from imagemill.scheduler_jobs.manifest.columns.layout import EXTRA
from imagemill.scheduler_jobs.manifest.problems import Problem
from imagemill.scheduler_jobs.manifest.program_rows import ROWS, rows_source
from imagemill.scheduler_jobs.submit.request import SubmissionRequest
from imagemill.scheduler_jobs.submit.submission import Submission, submit

log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
_ABANDONED_SECONDS = 10
"""After so long, a request that is not loaded is taken from whoever was loading it."""
_A_ROUND = 500

EXTRAS = ("response_format", "user", "safety_identifier")
"""Fields of a request that a row keeps and nothing renders."""

PRIORITIES: Mapping[str, int] = {requests.IMAGES: 1, BATCH: 0}
"""Somebody waits for single requests, so they go before batches."""

_PROBLEM = re.compile(rf"{ROWS}:\d+: (?:(\w+): )?(.*)", re.DOTALL)


class Loader:
    """Loads and ends requests. Many threads and servers may do it at once."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._stop = threading.Event()
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._rounds, name="loader", daemon=True)
        self._own: set[str] = set()

    def start(self) -> None:
        """Begin the rounds, in a thread of their own. `stop` ends waits for the database too."""
        self._database.wait_until(self._stop)
        self._thread.start()

    def stop(self) -> None:
        """End the rounds; what is being loaded is loaded first."""
        self._stop.set()
        self._wanted.set()
        self._thread.join()

    def take(self, request_id: str) -> None:
        """Load a request soon."""
        self._own.add(request_id)
        self._wanted.set()

    def load(self, request: Request) -> None:
        """Make a request's job and open it, or record why that can't be."""
        if request.kind == BATCH:
            self._load_batch(request)
            return
        row = request.document["row"]
        try:
            submission = self._submit(request, [row])
        except ManifestError as error:
            failures = [_problem_error(str(each)).body()["error"] for each in error.problems]
            self._fail(request, failures or [_said(error)])
        else:
            self._loaded(request, submission, [])

    def run_once(self) -> None:
        """One round: load what waits, and end what is over."""
        for request in self._waiting():
            self._try(request, self.load)
        self._database.run(requests.expire_requests)
        running = self._in_states(ApiState.IN_PROGRESS, ApiState.CANCELLING)
        job_ids = [request.job_id for request in running if request.job_id is not None]
        with self._database.reading() as session:
            counts = count_images(session, job_ids)
        for request in running:
            if request.job_id is not None and counts[request.job_id].pending == 0:
                self._try(request, self._end)

    def _rounds(self) -> None:
        while not self._stop.is_set():
            self._wanted.clear()
            try:
                self.run_once()
            except ServiceError as error:
                log.warning("the next round tries again: %s", error)
            except Exception:  # the thread's boundary: without it nothing would be loaded any more
                log.exception("a round failed")
            self._wanted.wait(ROUND_SECONDS)

    def _waiting(self) -> list[Request]:
        """Requests to load: this server's own, and those that nobody has loaded for long."""
        with self._database.reading() as session:
            found = requests.in_states(session, (ApiState.VALIDATING,), limit=_A_ROUND)
            moment = session.execute(select(now())).scalar_one()
        late = moment - timedelta(seconds=_ABANDONED_SECONDS)
        return [each for each in found if each.id in self._own or each.created_at < late]

    def _in_states(self, *states: ApiState) -> list[Request]:
        with self._database.reading() as session:
            return requests.in_states(session, states, limit=_A_ROUND)

    def _try(self, request: Request, work: Callable[[Request], None]) -> None:
        """Do the work for one request; its error does not stop the others."""
        try:
            work(request)
            self._own.discard(request.id)
        except ServiceError as error:
            log.warning("%s: the next round tries again: %s", request.id, error)
        except UsageError as error:
            log.warning("%s: %s", request.id, error)
            self._fail(request, [_said(error)])
        except Exception:  # a bug must not keep all others from being loaded
            log.exception("%s: the next round tries again", request.id)

    def _load_batch(self, request: Request) -> None:
        with self._database.reading() as session:
            content = file_content(session, request.document["input_file_id"])
        if content is None:
            self._fail(request, [_error("invalid_file", "The input file is not there any more")])
            return
        endpoint = request.document["endpoint"]
        found = read_batch(content, endpoint)
        if found.errors:
            self._fail(request, found.errors)
            return
        if endpoint == EDITS:
            found = read_batch(content, endpoint, self._edits_of(request))
        refused = [dict(line.refused) for line in found.lines if line.refused is not None]
        rows = dict(numbered(found.lines))
        try:
            submission = self._submit(request, [_row(line) for line in rows.values()])
        except ManifestError as error:
            found_bad = [each for each in error.problems if isinstance(each, Problem)]
            said = {each.row: str(each) for each in reversed(found_bad)}  # the first one counts
            if not said or None in said:
                self._fail(request, [_said(error)])
                return
            refused += [_refused(rows[row], said[row]) for row in rows if row in said]
            self._database.run(
                lambda session: requests.set_refused(session, request.id, _sorted(refused))
            )
        else:
            if submission is not None:
                with self._database.reading() as session:
                    bad = requests.refused_rows(session, submission.job_id)
                refused += [_refused(rows[number], problem) for number, problem in bad]
            self._loaded(request, submission, _sorted(refused))

    def _edits_of(self, request: Request) -> ReadBody:
        """Reads lines with pictures, and stores these."""
        pictures = BatchPictures(self._database, open_storage(self._settings), request.owner)

        def read(body: Mapping[str, Any]) -> Generation:
            edit = read_edit_body(body, self._settings, content_of=pictures.content_of)
            pictures.store(edit.pictures)
            return edit.generation

        return read

    def _submit(self, request: Request, rows: Sequence[Mapping[str, Any]]) -> Submission | None:
        """Submit rows as the request's job; None if there are none."""
        if not rows:
            return None
        met = {name for row in rows for name in row}
        asked = SubmissionRequest(
            manifest=ROWS,
            rows=partial(rows_source, rows),
            format="jsonl",
            name=request.id,
            seed=request.seed,
            priority=PRIORITIES[request.kind],
            owner=request.owner,
            route=self._settings.route,
            columns={name: EXTRA for name in EXTRAS if name in met},
            skip_bad_rows=request.kind == BATCH,
            literal_words=True,
            labels={"api": request.kind, **({"key": request.owner} if request.owner else {})},
        )
        return submit(asked, settings=self._settings, database=self._database)

    def _loaded(
        self, request: Request, submission: Submission | None, refused: list[dict[str, Any]]
    ) -> None:
        if submission is None:
            self._database.run(lambda session: requests.set_refused(session, request.id, refused))
            return
        job_id = submission.job_id
        self._database.run(lambda session: _record_loaded(session, request.id, job_id, refused))

    def _fail(self, request: Request, errors: Sequence[Mapping[str, Any]]) -> None:
        self._database.run(lambda session: requests.set_failed(session, request.id, errors))

    def _end(self, request: Request) -> None:
        assert request.job_id is not None
        job_id, refused = request.job_id, len(request.refused)
        with self._database.reading() as session:
            lines = requests.count_lines(session, job_id)
        counts = {
            "total": lines.total + refused,
            "completed": lines.completed,
            "failed": lines.failed + refused,
        }
        self._database.run(lambda session: requests.end_request(session, request.id, counts=counts))


def _record_loaded(
    session: Session, request_id: str, job_id: int, refused: list[dict[str, Any]]
) -> None:
    if requests.set_loaded(session, request_id, job_id, refused=refused):
        return
    request = requests.find_request(session, request_id)
    if request is not None and request.state is ApiState.CANCELLED:
        lifecycle.cancel(session, job_id)  # it was cancelled while it was loaded


def _row(line: Line) -> dict[str, Any]:
    assert line.generation is not None
    row = {**line.generation.row, "id": line.custom_id}
    if line.generation.response_format != "b64_json":
        row["response_format"] = line.generation.response_format
    return row


def _refused(line: Line, problem: str) -> dict[str, Any]:
    return refusal(line.number, line.custom_id, _problem_error(problem))


def _problem_error(problem: str) -> ApiError:
    """A manifest's problem, as it is recorded, in the words of the API."""
    match = _PROBLEM.fullmatch(problem.partition("\n")[0])
    param, said = (match[1], match[2]) if match else (None, problem)
    param = {"samples": "n", "id": "custom_id"}.get(param or "", param)
    named = f"Invalid value for {param!r}: " if param else ""
    return ApiError(f"{named}{said}", param=param, code="invalid_value")


def _said(error: ImagemillError) -> dict[str, Any]:
    return _error(error.code, error.message)


def _error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": None}


def _sorted(refused: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(refused, key=lambda each: each["line"])
