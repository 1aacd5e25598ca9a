"""The lines of a batch's files: JSONL in OpenAI's format, read and written.

What makes the whole file unusable fails the batch, with the number of each such line. A line that
is well formed but asks for what can't be rendered goes to the file of errors.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from imagemill.db.utf8 import is_storable
from imagemill.scheduler_jobs.api.refusals import ApiError, answerable, unstorable
from imagemill.scheduler_jobs.api.requests.edits import count_edit
from imagemill.scheduler_jobs.api.requests.generation import Generation, read_generation
from imagemill.scheduler_jobs.manifest.problems import BadValue
from imagemill.scheduler_jobs.manifest.values import unique_keys

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"

ReadBody = Callable[[Mapping[str, Any]], Generation]
"""Checks the body of a line. Raises `ApiError`."""

COUNTING: Mapping[str, ReadBody] = MappingProxyType(
    {GENERATIONS: read_generation, EDITS: count_edit}
)
"""How a line is read where its pictures do not matter yet, by the batch's endpoint."""

MOST_LINES = 50_000
_SHOWN_ERRORS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One request of a batch. Either `generation` or `refused` (an error's parts) is set.

    `number` counts the lines of the file from 1.
    """

    number: int
    custom_id: str
    generation: Generation | None = None
    refused: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchInput:
    """The requests of a file; or `errors`, as OpenAI has them, if it can't be used."""

    lines: tuple[Line, ...] = ()
    errors: tuple[dict[str, Any], ...] = field(default=())

    @property
    def images(self) -> int:
        """How many images its good lines ask for."""
        return sum(line.generation.images for line in self.lines if line.generation is not None)


class _BadLine(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


def read_batch(content: bytes, endpoint: str, read_body: ReadBody | None = None) -> BatchInput:
    """Read a batch's input file. What is wrong with it is in the result.

    Raises what `read_body` raises beside `ApiError`; without it, lines are only counted.
    """
    read_body = read_body or COUNTING[endpoint]
    lines: list[Line] = []
    errors: list[dict[str, Any]] = []
    first_line_of: dict[str, int] = {}
    for number, text in enumerate(content.split(b"\n"), 1):
        if not text.strip():
            continue
        if len(lines) >= MOST_LINES:
            return _unusable("too_many_tasks", f"at most {MOST_LINES:,} requests")
        try:
            line = _read_line(number, text, endpoint, read_body)
            _check_new(line.custom_id, first_line_of)
        except _BadLine as bad:
            errors.append(
                {"code": bad.code, "message": str(bad), "param": bad.param, "line": number}
            )
            if len(errors) >= _SHOWN_ERRORS:
                break
            continue
        first_line_of[line.custom_id] = number
        lines.append(line)
    if errors:
        return BatchInput(errors=tuple(errors))
    return BatchInput(lines=tuple(lines)) if lines else _unusable("empty_file", "no requests in it")


def output_line(request_id: str, row: int, custom_id: str, body: Mapping[str, Any]) -> str:
    """A line of the output file: a request's answer."""
    return _line(request_id, row, custom_id, status=200, body=body)


def error_line(request_id: str, row: int, refused: Mapping[str, Any]) -> str:
    """A line of the file of errors. `refused` has `custom_id`, `status`, `error`, and `line`."""
    return _line(
        request_id,
        row,
        refused["custom_id"],
        status=refused["status"],
        body={"error": refused["error"]},
        line=refused.get("line"),
    )


def unfinished_line(request_id: str, row: int, custom_id: str, *, code: str, message: str) -> str:
    """A line of the file of errors for a request that was never executed."""
    document = {
        "id": _line_id(request_id, row),
        "custom_id": custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return json.dumps(document) + "\n"


def refusal(number: int, custom_id: str, error: ApiError) -> dict[str, Any]:
    """A refused line as it is recorded with its batch."""
    return {
        "line": number,
        "custom_id": custom_id,
        "status": error.status,
        "error": error.body()["error"],
    }


def numbered(lines: Sequence[Line]) -> Iterator[tuple[int, Line]]:
    """The good lines with the numbers of their rows in the job."""
    return enumerate((line for line in lines if line.generation is not None), 1)


def _read_line(number: int, text: bytes, endpoint: str, read_body: ReadBody) -> Line:
    try:
        found = json.loads(text, parse_constant=_refuse, object_pairs_hook=unique_keys)
    except BadValue as error:
        raise _BadLine("invalid_json_line", f"This line has {error}.") from None
    except (ValueError, RecursionError):
        raise _BadLine("invalid_json_line", "This line is not parseable as valid JSON.") from None
    if not isinstance(found, dict):
        raise _BadLine("invalid_json_line", "This line is no JSON object.")
    custom_id = found.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise _missing("custom_id", "a text of its own for each line")
    if found.get("method") != "POST":
        raise (
            _missing("method", "POST")
            if "method" not in found
            else _BadLine("invalid_method", "The method must be POST", "method")
        )
    if found.get("url") != endpoint:
        raise _BadLine("url_mismatch", f"The url must be {endpoint}", "url")
    body = found.get("body")
    if not isinstance(body, dict):
        raise _missing("body", "an object")
    unknown = sorted(set(found) - {"custom_id", "method", "url", "body"})
    if unknown:
        name = answerable(unknown[0])
        raise _BadLine("unknown_parameter", f"Unknown parameter: {name[:80]!r}", name)
    try:
        if not is_storable(custom_id):
            raise unstorable("custom_id")
        generation = read_body(body)
    except ApiError as error:
        refused = error
    else:
        if not generation.stream:
            return Line(number=number, custom_id=custom_id, generation=generation)
        refused = ApiError("A batch does not stream", param="stream", code="invalid_value")
    return Line(number=number, custom_id=custom_id, refused=refusal(number, custom_id, refused))


def _check_new(custom_id: str, first_line_of: Mapping[str, int]) -> None:
    first = first_line_of.get(custom_id)
    if first is not None:
        raise _BadLine(
            "duplicate_custom_id",
            f"The custom_id {custom_id[:80]!r} is that of line {first} as well",
            "custom_id",
        )


def _missing(param: str, what: str) -> _BadLine:
    return _BadLine(
        "missing_required_parameter", f"Missing required parameter: {param!r}, {what}", param
    )


def _unusable(code: str, message: str) -> BatchInput:
    error = {"code": code, "message": f"The input file: {message}", "param": None, "line": None}
    return BatchInput(errors=(error,))


def _refuse(word: str) -> None:
    raise ValueError(word)


def _line_id(request_id: str, row: int) -> str:
    return f"batch_req_{request_id.removeprefix('batch_')}_{row}"


def _line(
    request_id: str,
    row: int,
    custom_id: str,
    *,
    status: int,
    body: Mapping[str, Any],
    line: int | None = None,
) -> str:
    document: dict[str, Any] = {
        "id": _line_id(request_id, row),
        "custom_id": custom_id,
        "response": {
            "status_code": status,
            "request_id": _line_id(request_id, row),
            "body": body,
        },
        "error": None,
    }
    if line is not None:
        document["line"] = line
    return json.dumps(document) + "\n"
