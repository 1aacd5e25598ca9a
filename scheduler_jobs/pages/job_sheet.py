"""A job's pictures on one page: its first images, done and dead, from database and storage."""

from collections.abc import Collection, Iterator

from PIL import Image

from imagemill.db.database import Database
from imagemill.db.errors import StorageError
from imagemill.db.queries.image_reports import ImageFilter, ImageReport, list_images
from imagemill.db.states import ImageState
from imagemill.db.storage import Storage
from imagemill.db.tables import Job
from imagemill.scheduler_jobs.pages.contact_sheet import Tile, contact_sheet

SETTLED = (ImageState.DONE, ImageState.DEAD)


def job_sheet(
    database: Database,
    storage: Storage,
    job_id: int,
    *,
    limit: int,
    columns: int = 6,
    tile_size: int = 192,
    states: Collection[ImageState] = SETTLED,
) -> tuple[Image.Image, int]:
    """The page, and how many images are on it. A missing file becomes a tile that says so."""
    with database.reading() as session:
        job = session.get_one(Job, job_id)
        images = [
            image
            for state in states
            for image in list_images(session, ImageFilter(job_id=job_id, state=state), limit=limit)
        ]
    images = sorted(images, key=lambda image: image.id)[:limit]
    page = contact_sheet(
        _tiles(images, storage),
        columns=columns,
        tile_size=tile_size,
        title=job.name,
        subtitle=f"job {job_id}, {len(images)} {'image' if len(images) == 1 else 'images'}",
    )
    return page, len(images)


def _tiles(images: list[ImageReport], storage: Storage) -> Iterator[Tile]:
    for image in images:
        label = f"row {image.row}" + (f", sample {image.sample}" if image.sample else "")
        picture, note = None, image.error_code or ""
        if image.object_key is not None:
            note = image.outcome if image.outcome and image.outcome != "ok" else ""
            try:
                picture = storage.get(image.object_key)
            except StorageError as error:
                if error.retryable:
                    raise
                note = error.code
        yield Tile(image=picture, caption=image.prompt, label=label, note=note)
