"""The report of a job: one HTML file that needs no network, to keep or to send to somebody.

It holds the job's figures, its images' parameters, and small copies of its pictures. Scripts in it
run only if their hash is in its Content-Security-Policy, so no text of a manifest can be one.
"""

import base64
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.process.whole_file import whole_file
from imagemill.db.queries.pictures.image_reports import ImageFilter, ImageReport, list_images
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.pages.entries import entries_of
from imagemill.scheduler_jobs.pages.job_summary import (
    figures_document,
    job_figures,
    job_report,
    summary_document,
)
from imagemill.scheduler_jobs.pages.page_files import (
    SHARED_SCRIPTS,
    STYLE,
    asset,
    data_element,
    outline,
    source_hash,
)
from imagemill.scheduler_jobs.pages.picture_bytes import picture_bytes
from imagemill.scheduler_jobs.pages.thumbnails import thumbnail

PAGE = 500
"""Images in one block of data. The page reads the blocks of those that are looked at."""

THUMBNAIL_BYTES = 64 << 20
"""Of small copies in one page; browsers open that quickly. Later images are read from their files.
"""

_THREADS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportOptions:
    """`max_images` in the gallery, small copies of `thumbnail_size` pixels, and how to call us.

    `command` is the beginning of a command line on this database: `imagemill --home out`.
    """

    max_images: int = 10_000
    thumbnail_size: int = 192
    thumbnail_bytes: int = THUMBNAIL_BYTES
    command: str = "imagemill"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportResult:
    """What was written: images in the gallery, those with a small copy, and all of the job."""

    images: int
    thumbnails: int
    requested: int
    size_bytes: int


def write_report(
    database: Database,
    storage: Storage,
    job_id: int,
    file: Path,
    *,
    options: ReportOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ReportResult:
    """Write the report of a job; the file is there whole or not at all.

    `progress` gets the numbers of images done and of all. Raises `StorageError` if the store does
    not answer, and `OSError` if the file can't be written.
    """
    with database.reading() as session, whole_file(file) as page:
        job = job_report(session, job_id)
        figures = figures_document(job_figures(session, job_id))
        writer = _Writer(storage, page, file.absolute().parent, options)
        total = min(job.requested, options.max_images)
        title = f"{job.name}: job {job.id}"
        writer.head(title, summary_document(job, figures, command=options.command))
        for images in _blocks(session, job_id, options.max_images):
            writer.block(images, entries_of(session, images))
            progress(writer.images, total)
        writer.end()
    return ReportResult(
        images=writer.images,
        thumbnails=writer.thumbnails,
        requested=job.requested,
        size_bytes=file.stat().st_size,
    )


def _blocks(session: Session, job_id: int, limit: int) -> Iterator[Sequence[ImageReport]]:
    after, left = None, limit
    which = ImageFilter(job_id=job_id)
    while left > 0:
        images = list_images(session, which, limit=min(PAGE, left), after=after)
        if not images:
            return
        yield images
        after, left = images[-1].id, left - len(images)


class _Writer:
    """Writes a page from its head to its end; knows how much of it there is."""

    def __init__(
        self, storage: Storage, page: BinaryIO, folder: Path, options: ReportOptions
    ) -> None:
        self._storage = storage
        self._page = page
        self._folder = folder
        self._options = options
        self._bytes_left = options.thumbnail_bytes
        self.images = 0
        self.thumbnails = 0

    def head(self, title: str, summary: dict[str, Any]) -> None:
        style, script = asset(STYLE), _script()
        policy = (
            f"default-src 'none'; script-src {source_hash(script)}; "
            f"style-src {source_hash(style)}; img-src data: file:; base-uri 'none'; "
            "form-action 'none'"
        )
        self._write(outline("report.html", policy=policy, title=title))
        self._write(f"<style>{style}</style>\n</head>\n<body>\n{asset('body.html')}")
        self._write(data_element("summary", summary))

    def block(self, images: Sequence[ImageReport], entries: Sequence[dict[str, Any]]) -> None:
        filed = [e | self._file(image) for image, e in zip(images, entries, strict=True)]
        self._write(data_element("images", filed))
        copies: list[str | None] = [None] * len(images)
        if self._bytes_left > 0:
            with ThreadPoolExecutor(_THREADS) as threads:
                for place, copy in enumerate(threads.map(self._copy, images)):
                    copies[place] = copy
                    self._bytes_left -= len(copy or "")
        self._write(data_element("thumbnails", copies))
        self.images += len(images)
        self.thumbnails += sum(copy is not None for copy in copies)

    def end(self) -> None:
        self._write(f"<script>{_script()}</script>\n</body>\n</html>\n")

    def _write(self, text: str) -> None:
        self._page.write(text.encode())

    def _copy(self, image: ImageReport) -> str | None:
        """The small copy as base64; None without a picture, or for one that can't be read."""
        body = picture_bytes(self._storage, image)
        copy = None if body is None else thumbnail(body, self._options.thumbnail_size)
        return None if copy is None else base64.b64encode(copy).decode()

    def _file(self, image: ImageReport) -> dict[str, Any]:
        """Where the picture is: a link that works as long as report and pictures stay together."""
        if image.uri is None:
            return {}
        parts = urlsplit(image.uri)
        if parts.scheme != "file":
            return {"file": image.uri}
        return {"file": quote(os.path.relpath(unquote(parts.path), self._folder))}


def _script() -> str:
    return "\n".join(asset(name) for name in (*SHARED_SCRIPTS, "report.js"))
