"""One export: its plan, learnt from a first pass over the selection, and what writers need of it.

The first pass counts, learns the columns, and refuses what the format can't hold, before a file
is written. Its digest is taken over every value that can get into a file, so an interrupted export
can be told from one of other images.
"""

import hashlib
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from imagemill.db.errors import UsageError
from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.exports.columns import OWN, ExtraKinds, json_of
from imagemill.scheduler_jobs.exports.pictures import (
    Picture,
    PictureForm,
    known_picture,
    read_picture,
)
from imagemill.scheduler_jobs.exports.selection import (
    ExportImage,
    SeenNames,
    Selection,
    select_images,
    split_of,
)
from imagemill.scheduler_jobs.exports.target import Target
from imagemill.scheduler_jobs.picture_names import NameTemplate, file_suffix, folded, slug

T = TypeVar("T")

READERS = 4
"""Threads that read pictures ahead of the writer."""

GROUP_IMAGES = 64
GROUP_BYTES = 1 << 20
"""A thread reads so many pictures in one go, or so many bytes if these are reached before: handing
over each picture alone costs more than reading a small one."""

AHEAD = 8
"""Such groups that are read ahead. So memory holds 8 MiB of pictures, or 9 large ones."""

RANGED = ("guidance_scale", "seed", "steps")
SAMPLES = 5
"""Pictures that the card shows as samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """How an export is written. Each format says which of these it takes.

    `name` is a template for the names of files, `shard_size` the images in a shard. `formulas`
    leaves texts in tables as they are, also where a spreadsheet would run them.
    """

    form: PictureForm
    name: str | None = None
    shard_size: int | None = None
    formulas: bool = False

    def document(self) -> dict[str, Any]:
        """The options as JSON, for records of the export."""
        return {
            "pictures": self.form.document(),
            "name": self.name,
            "shard_size": self.shard_size,
            "formulas": self.formulas,
        }


@dataclass(kw_only=True, slots=True)
class ExportPlan:
    """What the first pass found: how much there is, in which columns, and the digest of it all."""

    keeps_failures: bool = False
    images: int = 0
    failures: int = 0
    rows: int = 0
    """Rows of manifests that have a picture here."""
    digest: str = ""
    newest: datetime | None = None
    """When the last picture was rendered."""
    extras: ExtraKinds = field(default_factory=ExtraKinds)
    splits: Counter[str] = field(default_factory=Counter)
    models: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By name and digest of the weights."""
    samplers: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    suffixes: Counter[str] = field(default_factory=Counter)
    """Of the exported pictures' files."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The smallest and the largest value of `RANGED`."""
    failure_codes: Counter[str] = field(default_factory=Counter)
    """Why images have no picture, where the format keeps those."""
    samples: list[ExportImage] = field(default_factory=list)
    """Some pictures from all over the set, always the same ones."""
    _row: tuple[int, int] | None = None

    def add(self, image: ExportImage, form: PictureForm, selection: Selection) -> None:
        """Count one image. They come in the order of the export."""
        self.extras.add(image.extras)
        if not image.done:
            self.failures += 1
            self.failure_codes[image["error_code"]] += 1
            return
        self.images += 1
        row = (image["job_id"], image["row_number"])
        if row != self._row:
            self.rows, self._row = self.rows + 1, row
        self.newest = max(self.newest or image["created_at"], image["created_at"])
        self.models[image["model"], image["weights_digest"]] += 1
        self.samplers[image["sampler"]] += 1
        self.sizes[f"{image['width']}x{image['height']}"] += 1
        self.suffixes[file_suffix(form.format_of(image))] += 1
        for name in RANGED:
            least, most = self.ranges.get(name, (image[name], image[name]))
            self.ranges[name] = (min(least, image[name]), max(most, image[name]))
        if selection.splits:
            self.splits[split_of(image, selection.splits)] += 1
        self._sample(image)

    def _sample(self, image: ExportImage) -> None:
        """Keep the images with the smallest request keys: hashes, so they are from all over."""
        if len(self.samples) < SAMPLES or _sample_key(image) < _sample_key(self.samples[-1]):
            self.samples = sorted([*self.samples, image], key=_sample_key)[:SAMPLES]


class Export:
    """What a writer gets: images in order, their pictures, names, and the place to write to."""

    def __init__(
        self,
        *,
        session: Session,
        storage: Storage,
        target: Target,
        selection: Selection,
        options: ExportOptions,
        plan: ExportPlan,
        progress: Callable[[int], None],
    ) -> None:
        self._session = session
        self._storage = storage
        self._selection = selection
        self._progress = progress
        self.target = target
        self.options = options
        self.plan = plan
        self.present = target.names()
        """The files that an interrupted export of the same digest has left; each is whole."""
        self._template = (
            None if options.name is None else NameTemplate(options.name, option="--name")
        )

    @property
    def split_names(self) -> Sequence[str]:
        """The splits in order; one empty name where there are none."""
        return [split.name for split in self._selection.splits] or [""]

    @property
    def shard_size(self) -> int:
        """Images in a shard."""
        assert self.options.shard_size is not None  # of every format with shards: see `run_export`
        return self.options.shard_size

    def images(self, split: str = "") -> Iterator[ExportImage]:
        """The images of a split (of the whole export for an empty name), the same every time."""
        found = select_images(self._session, self._selection, failures=self.plan.keeps_failures)
        if not split:
            return found
        splits = self._selection.splits
        return (image for image in found if split_of(image, splits) == split)

    def pictures(
        self,
        images: Iterable[ExportImage],
        *,
        is_known: Callable[[ExportImage], bool] = lambda _: False,
    ) -> Iterator[tuple[ExportImage, Picture | None]]:
        """Images with their pictures, in order, read ahead; None where there is no picture.

        A picture that is known is not read: its `body` is empty.
        """
        form = self.options.form

        def read(image: ExportImage) -> tuple[ExportImage, Picture | None]:
            if not image.done:
                return image, None
            if is_known(image):
                return image, known_picture(image, form)
            return image, read_picture(self._storage, image, form)

        def read_all(group: list[ExportImage]) -> list[tuple[ExportImage, Picture | None]]:
            return [read(image) for image in group]

        groups = _read_groups(images)
        with ThreadPoolExecutor(READERS, thread_name_prefix="export") as readers:
            waiting = deque(readers.submit(read_all, group) for group in islice(groups, AHEAD))
            try:
                while waiting:
                    yield from waiting.popleft().result()
                    waiting.extend(readers.submit(read_all, group) for group in islice(groups, 1))
            finally:
                for future in waiting:
                    future.cancel()

    def stem(self, image: ExportImage) -> str:
        """The name of an image's file without its suffix."""
        assert self._template is not None  # of every format with names: see `run_export`
        return stem_of(image, self._template, self.options.form)

    def stem_in(self, folder: str) -> Callable[[ExportImage], str]:
        """As `stem`, below a folder; an empty one is the export's own."""
        return lambda image: f"{folder}/{self.stem(image)}" if folder else self.stem(image)

    def advance(self, images: int = 1) -> None:
        """Tell whoever watches that so many images are written."""
        self._progress(images)


def make_plan(
    session: Session,
    selection: Selection,
    options: ExportOptions,
    *,
    failures: bool,
    checked: Callable[[Iterator[ExportImage]], Iterator[ExportImage]] | None,
) -> ExportPlan:
    """The first pass over the selection. A `UsageError` says what can't be exported so.

    `checked` passes images through and raises for those that the format can't hold.
    """
    plan, digest = ExportPlan(keeps_failures=failures), hashlib.sha256()
    names = _Names(options)
    seen = SeenNames(selection.by)
    images = select_images(session, selection, failures=failures, seen=seen)
    for image in images if checked is None else checked(images):
        if image.done:
            names.add(image)
            options.form.check(image)
        plan.add(image, options.form, selection)
        # Names and order are the same for all, so the values alone tell images apart.
        digest.update(json_of([image.values.get(name) for name in OWN]))
        digest.update(json_of(image.extras, sort_keys=True))
        digest.update(image["verbatim"].encode("utf-8", "surrogatepass"))
    seen.check_by("--by")
    if options.name is not None:
        named = NameTemplate(options.name, option="--name").names
        seen.check("--name", named - {"row", "key", "sample", "ext"})
        names.check()
    if not plan.images:
        raise UsageError("no image is left to export: nothing is done yet, or --where takes none")
    plan.digest = digest.hexdigest()
    return plan


def stem_of(image: ExportImage, template: NameTemplate, form: PictureForm) -> str:
    """The name of an image's file without its suffix, by a template."""
    key = image["row_key"] or image["row_number"]
    values = {
        **image.named,
        "prompt": slug(image["prompt"]),
        "negative_prompt": slug(image["negative_prompt"]),
        "row": image["row_number"],
        "key": key,
        "row_key": key,
        "sample": image["sample_index"],
        "ext": file_suffix(form.format_of(image)),
    }
    return template.stem(values).removesuffix(f".{values['ext']}")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last may be shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def _read_groups(images: Iterable[ExportImage]) -> Iterator[list[ExportImage]]:
    """The images in groups that one thread reads."""
    group: list[ExportImage] = []
    size = 0
    for image in images:
        group.append(image)
        size += image["size_bytes"] or 0
        if len(group) == GROUP_IMAGES or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


class _Names:
    """Finds two images with one name. The names lie in a file, so that memory stays flat.

    `check` says so at the end: a mistyped place in the template makes names equal too, and only
    all images together say that it is one.
    """

    def __init__(self, options: ExportOptions) -> None:
        self._form = options.form
        self._template = None
        self._problem: str | None = None
        if options.name is not None:
            self._template = NameTemplate(options.name, option="--name")
            self._seen = sqlite3.connect("")  # an empty name is a temporary file
            self._seen.execute("CREATE TABLE seen (name TEXT PRIMARY KEY, image) WITHOUT ROWID")

    def add(self, image: ExportImage) -> None:
        if self._template is None or self._problem is not None:
            return
        name = stem_of(image, self._template, self._form)
        added = self._seen.execute(
            "INSERT OR IGNORE INTO seen VALUES (?, ?)", (folded(name), image["image_id"])
        )
        if not added.rowcount:
            [other] = self._seen.execute("SELECT image FROM seen WHERE name = ?", [folded(name)])
            self._problem = (
                f"--name: images {other[0]} and {image['image_id']} would both be called {name!r}; "
                "add {image_id} or {sample_index} to the template"
            )

    def check(self) -> None:
        """A `UsageError` if two images would have one name."""
        if self._problem is not None:
            raise UsageError(self._problem)


def _sample_key(image: ExportImage) -> tuple[str, int]:
    return image["request_key"], image["image_id"]
