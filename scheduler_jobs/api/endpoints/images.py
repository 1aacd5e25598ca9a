"""What renders: `POST /v1/images/generations`, `…/edits` and `/v1/chat/completions`.

A request submits a job and waits for its pictures.

A client that goes away loses nothing: the job stays, and the same `Idempotency-Key` gets its
pictures later.
"""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from operator import gt
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from imagemill.db.database import Database
from imagemill.db.queries.api import requests
from imagemill.db.queries.api.files import read_file
from imagemill.db.queries.api.keys import has_keys
from imagemill.db.queries.api.requests import NewRequest
from imagemill.db.queries.pictures.image_reports import ImageFilter, ImageReport, list_images
from imagemill.db.queries.pictures.image_search import MOST_ID, images_by_id
from imagemill.db.settings import Settings
from imagemill.db.states import TERMINAL, ApiState, ImageState
from imagemill.db.storage import Storage
from imagemill.db.storage.inputs import MAX_INPUT_BYTES
from imagemill.scheduler_jobs.api import admission, metrics
from imagemill.scheduler_jobs.api.access import Caller, caller_of
from imagemill.scheduler_jobs.api.addresses import (
    base_of,
    is_signed,
    picture_address,
    secret_of,
)
from imagemill.scheduler_jobs.api.admission import ApiLimits
from imagemill.scheduler_jobs.api.answers import encoded, failure, images_body
from imagemill.scheduler_jobs.api.job_watch import Watch
from imagemill.scheduler_jobs.api.loader import Loader
from imagemill.scheduler_jobs.api.refusals import NOT_AGAIN, ApiError, not_found
from imagemill.scheduler_jobs.api.requests.bodies import (
    MOST_JSON_BYTES,
    media_type,
    read_form,
    read_json,
)
from imagemill.scheduler_jobs.api.requests.chat import completion, generation_fields
from imagemill.scheduler_jobs.api.requests.edits import read_edit, read_edit_body
from imagemill.scheduler_jobs.api.requests.generation import (
    MOST_IMAGES,
    Generation,
    read_generation,
)
from imagemill.scheduler_jobs.api.requests.uploaded_pictures import keep_picture
from imagemill.scheduler_jobs.pages.picture_bytes import checked_picture

_SILENCE_SECONDS = 2.0
"""How often somebody looks whether the client is still there."""

_CLIENT_GONE = 499

_PICTURES_OF_AN_EDIT = 2
"""The picture, and its mask."""

_NO_TOKENS = {"image_tokens": 0, "text_tokens": 0}
_USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": _NO_TOKENS,
}
"""Nothing is counted in tokens here, but a client's type of an event has them."""


class Images:
    """The addresses that render, and those of pictures."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        settings: Settings,
        *,
        loader: Loader,
        limits: ApiLimits,
        local: bool,
    ) -> None:
        """`local` says that only this machine reaches the server."""
        self._local = local
        self._database = database
        self._storage = storage
        self._settings = settings
        self._loader = loader
        self._limits = limits
        self._watch = Watch(database)

    async def generate(self, request: Request) -> Response:
        """Render a request's pictures, and answer with them."""
        caller = caller_of(request, writes=True)
        body = await read_json(request)
        generation = read_generation(body)
        return await self._answered(request, caller, generation, asked=body)

    async def chat(self, request: Request) -> Response:
        """Render the pictures that a chat asks for, and answer as its model would."""
        caller = caller_of(request, writes=True)
        body = await read_json(request)
        generation = read_generation(generation_fields(body))
        model = generation.row.get("model", self._settings.default_model)
        return await self._answered(request, caller, generation, asked=body, chat_model=model)

    async def edit(self, request: Request) -> Response:
        """Render pictures from one that is sent along, and answer with them."""
        caller = caller_of(request, writes=True)
        most = min(self._limits.file_bytes, MAX_INPUT_BYTES)
        if media_type(request) == "application/json":
            # Base64 makes four bytes of three.
            room = _PICTURES_OF_AN_EDIT * most * 4 // 3 + MOST_JSON_BYTES
            body = await read_json(request, most_bytes=room)
            content_of = partial(self._uploaded, caller)
            edit = await run_in_threadpool(
                read_edit_body, body, self._settings, content_of=content_of
            )
        else:
            form = await read_form(request, most_bytes=most, most_files=_PICTURES_OF_AN_EDIT)
            edit = await run_in_threadpool(read_edit, form, self._settings)
        return await self._answered(
            request, caller, edit.generation, asked=edit.asked, pictures=edit.pictures
        )

    def _uploaded(self, caller: Caller, file_id: str) -> bytes | None:
        with self._database.reading() as session:
            return read_file(session, file_id, owner=caller.sees_only)

    async def _answered(
        self,
        request: Request,
        caller: Caller,
        generation: Generation,
        *,
        asked: Mapping[str, Any],
        pictures: Sequence[bytes] = (),
        chat_model: str | None = None,
    ) -> Response:
        """Submit the request, wait, and answer.

        `asked` is what tells it from others. With a `chat_model`, the answer is that of a chat.
        """
        key = request.headers.get("idempotency-key")
        new = admission.new_request(
            requests.IMAGES, caller, asked, key=key, images=generation.images
        )
        new = admission.with_document(new, {"row": dict(generation.row)})
        recorded = await run_in_threadpool(self._recorded, caller, new, pictures)
        headers = {
            "x-request-id": recorded.id,
            "x-imagemill-job": str(recorded.job_id),
            "idempotency-key": key or recorded.id,
        }
        if generation.stream:
            events = self._events(recorded, "image_edit" if pictures else "image_generation")
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        with metrics.WAITING.track_inprogress():
            rendered = await self._rendered(request, recorded)
        if not rendered:
            if await request.is_disconnected():
                return Response(status_code=_CLIENT_GONE)
            raise self._not_finished(recorded, sent=key is not None, headers=headers)
        answer = await run_in_threadpool(self._answer, request, caller, recorded, generation)
        if chat_model is not None:
            answer = completion(answer, request_id=recorded.id, model=chat_model)
        return JSONResponse(answer, headers=headers)

    def picture(self, request: Request) -> Response:
        """A picture's file, by its signed address."""
        image_id = min(request.path_params["image"], MOST_ID)
        with self._database.reading() as session:
            unlocked = self._local and not has_keys(session)
            allowed = unlocked or is_signed(session, request, image_id)
            image = images_by_id(session, [image_id]).get(image_id) if allowed else None
        if not allowed:
            raise ApiError("This address is not signed, or too old", status=403, code="expired_url")
        body = None if image is None else checked_picture(self._storage, image)
        if image is None or body is None:
            raise not_found("picture", str(image_id))
        headers = {"content-security-policy": "sandbox; default-src 'none'"}
        return Response(body, media_type=f"image/{image.format}", headers=headers)

    def _recorded(
        self, caller: Caller, new: NewRequest, pictures: Sequence[bytes]
    ) -> requests.Request:
        """The recorded request, with its job. Raises `ApiError` if it can't be rendered.

        Its pictures are stored before it is recorded, so whoever loads it finds them; and only
        if it looks as if it will be admitted.
        """
        route = self._settings.route
        if pictures:
            with self._database.reading() as session:
                admission.check_admission(session, caller, new, limits=self._limits, route=route)
            for content in pictures:
                keep_picture(self._database, self._storage, content)
        recorded = self._database.run(
            lambda session: admission.admit(session, caller, new, limits=self._limits, route=route)
        )
        admission.count_admitted(new, recorded)
        if recorded.state is ApiState.VALIDATING:
            self._loader.load(recorded)
            with self._database.reading() as session:
                found = requests.find_request(session, recorded.id)
            assert found is not None, "requests are never deleted"
            recorded = found
        if recorded.state is ApiState.FAILED:
            error = recorded.errors[0]
            raise ApiError(
                error["message"], param=error["param"], code=error["code"], headers=NOT_AGAIN
            )
        assert recorded.job_id is not None, "what is loaded has a job"
        return recorded

    async def _rendered(self, request: Request, recorded: requests.Request) -> bool:
        """Wait for the job's end; False if the time is over, or if the client went away."""
        assert recorded.job_id is not None
        give_up = time.monotonic() + self._limits.wait_seconds
        while (left := give_up - time.monotonic()) > 0:
            seconds = min(left, _SILENCE_SECONDS)
            job_id = recorded.job_id
            if await self._watch.wait(job_id, until=lambda pending: pending == 0, seconds=seconds):
                return True
            if await request.is_disconnected():
                return False
        return await self._watch.look(recorded.job_id) == 0

    def _answer(
        self,
        request: Request,
        caller: Caller,
        recorded: requests.Request,
        generation: Generation,
    ) -> dict[str, Any]:
        with self._database.reading() as session:
            images = _images_of(session, recorded)
            secret = secret_of(session, caller)
        base = base_of(request)
        return images_body(
            images,
            created=recorded.created_at,
            response_format=generation.response_format,
            encode=partial(encoded, self._storage),
            address_of=partial(picture_address, base, owner=caller.name, secret=secret),
        )

    async def _events(self, recorded: requests.Request, kind: str) -> AsyncIterator[str]:
        """Each picture as soon as it is there, as events of a stream; then errors, if any."""
        with metrics.WAITING.track_inprogress():
            async for event in self._told(recorded, f"{kind}.completed"):
                yield event

    async def _told(self, recorded: requests.Request, name: str) -> AsyncIterator[str]:
        assert recorded.job_id is not None
        sent: set[int] = set()
        give_up = time.monotonic() + self._limits.wait_seconds
        while True:
            images = await run_in_threadpool(self._images, recorded)
            for image in images:
                if image.id in sent or image.state not in TERMINAL:
                    continue
                sent.add(image.id)
                if image.state != ImageState.DONE:
                    yield _event("error", failure(image).body())
                    continue
                try:
                    picture = await run_in_threadpool(encoded, self._storage, image)
                    yield _event(name, _completed(recorded, image, picture) | {"type": name})
                except ApiError as error:
                    yield _event("error", error.body())
            pending = sum(image.state not in TERMINAL for image in images)
            left = give_up - time.monotonic()
            if pending == 0:
                return
            if left <= 0:
                yield _event("error", self._not_finished(recorded, sent=True, headers={}).body())
                return
            await self._watch.wait(recorded.job_id, until=partial(gt, pending), seconds=left)

    def _images(self, recorded: requests.Request) -> list[ImageReport]:
        with self._database.reading() as session:
            return _images_of(session, recorded)

    def _not_finished(
        self, recorded: requests.Request, *, sent: bool, headers: dict[str, str]
    ) -> ApiError:
        key = headers.get("idempotency-key", recorded.id)
        return ApiError(
            f"Job {recorded.job_id} goes on. The same request with the header "
            f"'Idempotency-Key: {key}' waits for its pictures again",
            status=504,
            kind="timeout_error",
            code="not_finished",
            # Without a key of its own, a client that tries again would ask for other pictures.
            headers=headers | ({"retry-after": "1"} if sent else NOT_AGAIN),
        )


def _images_of(session: Any, recorded: requests.Request) -> list[ImageReport]:
    return list_images(session, ImageFilter(job_id=recorded.job_id), limit=MOST_IMAGES)


def _completed(recorded: requests.Request, image: ImageReport, picture: str) -> dict[str, Any]:
    return {
        "b64_json": picture,
        "created_at": int(recorded.created_at.timestamp()),
        "size": f"{image.width}x{image.height}",
        "quality": "auto",
        "background": "opaque",
        "output_format": image.format,
        "usage": _USAGE,
        "image_id": image.id,
        "seed": image.seed,
        "outcome": image.outcome,
    }


def _event(name: str, document: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(document)}\n\n"
