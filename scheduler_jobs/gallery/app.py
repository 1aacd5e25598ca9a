"""The gallery's pages and answers. Everything is read from the database at the time it is asked."""

import json
from typing import Any

from sqlalchemy import exc
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from imagemill.db.database import Database
from imagemill.db.errors import ImagemillError, UnknownJob, UsageError
from imagemill.db.queries.fleet.reports import list_jobs
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.pictures.image_reports import ImageReport
from imagemill.db.queries.pictures.image_search import MOST_ID, images_by_id, partners
from imagemill.db.queries.pictures.tags import tags_of
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.curation.tags import check_tag, tag_images, untag_images
from imagemill.scheduler_jobs.gallery.access import Access, Keys
from imagemill.scheduler_jobs.gallery.image_query import (
    ImageQuery,
    cursor_text,
    find_images,
    read_conditions,
    read_cursor,
)
from imagemill.scheduler_jobs.gallery.pictures import Picture, Pictures
from imagemill.scheduler_jobs.gallery.summaries import Summaries
from imagemill.scheduler_jobs.pages.entries import entries_of
from imagemill.scheduler_jobs.pages.page_files import SHARED_SCRIPTS, STYLE, asset, outline

SCRIPTS = (*SHARED_SCRIPTS, "gallery.js")
MOST_JOBS = 500
MOST_IDS = 200
MOST_BODY = 4096

_FOREVER = {"cache-control": "private, max-age=31536000, immutable"}
"""For addresses that name a file's hash."""


def gallery_app(database: Database, storage: Storage, *, keys: Keys, command: str) -> Starlette:
    """The gallery as an ASGI application. `command` is how a shell calls us on this database."""
    gallery = _Gallery(database, storage, command)
    return Starlette(
        routes=[
            Route("/", _to_latest),
            Route("/jobs/{job}", _page),
            Route("/assets/{name}", _asset),
            Route("/api/jobs", gallery.jobs),
            Route("/api/jobs/{job}", gallery.summary),
            Route("/api/jobs/{job}/images", gallery.images),
            Route("/api/images", gallery.some_images),
            Route("/api/images/{image:int}/tags", gallery.tags, methods=["POST"]),
            Route("/pictures/{image:int}", gallery.picture),
            Route("/thumbnails/{image:int}", gallery.small_picture),
        ],
        middleware=[Middleware(Access, keys=keys)],
        exception_handlers={
            UnknownJob: _no_such_job,
            ImagemillError: _told,
            exc.OperationalError: _database_away,
        },
    )


class _Gallery:
    """The answers that need the database or the store. Each runs in a thread of its own."""

    def __init__(self, database: Database, storage: Storage, command: str) -> None:
        self._database = database
        self._pictures = Pictures(storage)
        self._summaries = Summaries(command)

    def jobs(self, request: Request) -> Response:
        with self._database.reading() as session:
            found = list_jobs(session, limit=MOST_JOBS)
        return JSONResponse(
            [{"job_id": job.id, "job_name": job.name, "state": job.state} for job in found]
        )

    def summary(self, request: Request) -> Response:
        with self._database.reading() as session:
            job_id = _job_id(session, request.path_params["job"])
            quick = "quick" in request.query_params
            summaries = self._summaries
            summary = (summaries.without_figures if quick else summaries.of)(session, job_id)
        return JSONResponse(summary)

    def images(self, request: Request) -> Response:
        given = request.query_params
        try:
            conditions = read_conditions(json.loads(given.get("conditions", "[]")))
            score = given.get("score")
            after = read_cursor(given.get("after"), score=score)
        except (ValueError, RecursionError) as error:
            return PlainTextResponse(f"{error}\n", status_code=400)
        with self._database.reading() as session:
            job_id = _job_id(session, request.path_params["job"])
            query = ImageQuery(
                job_id=job_id,
                words=given.get("words", "").split(),
                conditions=conditions,
                score=score,
                descending="ascending" not in given,
            )
            found = find_images(session, query, after=after)
            entries = _paired(session, found.images, found.entries, given.get("with"))
        return JSONResponse({"images": entries, "after": cursor_text(found.after)})

    def some_images(self, request: Request) -> Response:
        """Images by their ids, as they are now."""
        given = request.query_params
        try:
            ids = [_number(each) for each in given.get("ids", "").split(",") if each]
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", status_code=400)
        with self._database.reading() as session:
            found = list(images_by_id(session, ids[:MOST_IDS]).values())
            entries = _paired(session, found, entries_of(session, found), given.get("with"))
        return JSONResponse({"images": entries})

    async def tags(self, request: Request) -> Response:
        """Give a tag to an image or take it away: the only thing that the gallery writes."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BODY:
                return PlainTextResponse("too much for a tag\n", status_code=413)
        return await run_in_threadpool(self._tagged, request.path_params["image"], body)

    def _tagged(self, image_id: int, body: bytes) -> Response:
        try:
            tag, wanted = _read_tag(body)
        except (ValueError, RecursionError, UsageError) as error:
            return PlainTextResponse(f"{error}\n", status_code=400)
        with self._database.reading() as session:
            image = images_by_id(session, [min(image_id, MOST_ID)]).get(image_id)
        if image is None:
            return PlainTextResponse("there is no such image\n", status_code=404)
        (tag_images if wanted else untag_images)(self._database, [image.id], tag)
        with self._database.reading() as session:
            tags = tags_of(session, image.job_id, first=image.id, last=image.id)
        self._summaries.forget(image.job_id)
        return JSONResponse({"tags": tags.get(image.id, [])})

    def picture(self, request: Request) -> Response:
        return self._sent(request, small=False)

    def small_picture(self, request: Request) -> Response:
        return self._sent(request, small=True)

    def _sent(self, request: Request, *, small: bool) -> Response:
        image_id = min(request.path_params["image"], MOST_ID)
        with self._database.reading() as session:
            image = images_by_id(session, [image_id]).get(image_id)
        picture: Picture | None = None
        if image is not None:
            picture = self._pictures.small(image) if small else self._pictures.whole(image)
        if picture is None:
            return PlainTextResponse("there is no such picture\n", status_code=404)
        # A file is a picture and nothing else, whatever its bytes are taken for.
        policy = {"content-security-policy": "sandbox; default-src 'none'"}
        named = request.query_params.get("v") == (image and image.sha256)
        headers = policy | (_FOREVER if named else {})
        return Response(picture.body, media_type=picture.media_type, headers=headers)


def _paired(
    session: Session,
    images: list[ImageReport],
    entries: list[dict[str, Any]],
    other_job: str | None,
) -> list[dict[str, Any]]:
    """Images as JSON; with another job, each beside the one that answers to it there, or None."""
    if other_job is None:
        return entries
    found = partners(session, [image.id for image in images], _job_id(session, other_job))
    others = dict(zip(found, entries_of(session, list(found.values())), strict=True))
    return [
        entry | {"other": others.get(image.id)}
        for image, entry in zip(images, entries, strict=True)
    ]


def _job_id(session: Session, reference: str) -> int:
    if reference.isdecimal() and int(reference) > MOST_ID:
        raise UnknownJob(f"no job {reference}")
    return find_job(session, reference).id


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) > MOST_ID:
        raise ValueError("expected ids")
    return int(text)


def _read_tag(body: bytes) -> tuple[str, bool]:
    """A tag, and whether the image is to have it. Raises `ValueError` or `UsageError`."""
    given = json.loads(body)
    if not isinstance(given, dict):
        raise ValueError('expected {"tag": "keep", "on": true}')  # noqa: TRY004 - a page's mistake
    tag, wanted = given.get("tag"), given.get("on")
    if not isinstance(tag, str) or not isinstance(wanted, bool) or len(given) > 2:
        raise ValueError('expected {"tag": "keep", "on": true}')
    return check_tag(tag), wanted


def _to_latest(request: Request) -> Response:
    return RedirectResponse("/jobs/latest", status_code=303)


def _page(request: Request) -> Response:
    scripts = "\n".join(f'<script src="/assets/{name}" defer></script>' for name in SCRIPTS)
    head = outline("gallery.html", title="imagemill gallery")
    page = f"{head}{scripts}\n</head>\n<body>\n{asset('body.html')}</body>\n</html>\n"
    return Response(page, media_type="text/html")


def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in (*SCRIPTS, STYLE):
        return PlainTextResponse("there is no such file\n", status_code=404)
    kind = "text/css" if name == STYLE else "text/javascript"
    return Response(asset(name), media_type=kind)


def _no_such_job(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", status_code=404)


def _told(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", status_code=503)


def _database_away(request: Request, error: Exception) -> Response:
    return PlainTextResponse("the database does not answer\n", status_code=503)
