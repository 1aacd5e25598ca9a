"""`images` and `show`: a list of images, and everything about one image."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from imagemill.db.compositions import Composition
from imagemill.db.errors import UnknownImage, UsageError
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.pictures.image_reports import (
    Event,
    ImageDetail,
    ImageFilter,
    ImageReport,
    find_image,
    list_images,
)
from imagemill.db.samplers.names import find_sampler
from imagemill.db.seeds import SEED_LIMIT
from imagemill.db.states import ImageState, Outcome
from imagemill.scheduler_jobs.cli.arguments import job_argument, whole
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, moment
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.exports.selection import list_where

MOST_SHOWN = 100
"""Images of a row that `show --key` shows."""

_JOB, _KEY = Column(title="JOB", right=True), Column(title="KEY")
_SAMPLE, _STEPS = Column(title="SAMPLE", right=True), Column(title="STEPS", right=True)
_OUTCOME, _MODEL, _SIZE = Column(title="OUTCOME"), Column(title="MODEL"), Column(title="SIZE")


@click.command()
@pass_invocation
@job_argument(required=False)
@click.option(
    "--state", type=click.Choice([state.value for state in ImageState]), help="Only this state."
)
@click.option(
    "--outcome",
    type=click.Choice([outcome.value for outcome in Outcome]),
    help="Only done images of this outcome.",
)
@click.option("--model", metavar="NAME", help="Only images of this model.")
@click.option(
    "--row", type=int, callback=whole(1), metavar="N", help="Only this row of the manifest."
)
@click.option("--key", metavar="ID", help="Only the row that has this id in the manifest.")
@click.option("--sampler", metavar="NAME", help="Only images of this sampler, by any of its names.")
@click.option(
    "--guidance-scale", "--guidance", type=float, metavar="X", help="Only images of this guidance."
)
@click.option(
    "--seed",
    type=int,
    callback=whole(0, SEED_LIMIT - 1),
    metavar="N",
    help="Only images of this seed.",
)
@click.option("--code", metavar="CODE", help="Only images whose last failure has this code.")
@click.option("--where", metavar="CONDITION", help="Only these: \"steps > 20 and mood = 'calm'\".")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    metavar="N",
    help="The most images to list.",
)
@click.option("--after", type=int, callback=whole(0), metavar="ID", help="Go on after this image.")
@output.json_option
def images(  # noqa: PLR0913, PLR0917 - click passes one argument per option, by name
    invocation: Invocation,
    job: str | None,
    state: str | None,
    outcome: str | None,
    model: str | None,
    row: int | None,
    key: str | None,
    sampler: str | None,
    guidance_scale: float | None,
    seed: int | None,
    code: str | None,
    where: str | None,
    limit: int,
    after: int | None,
    as_json: bool,
) -> None:
    """List and filter images.

    Lists the images of one job or of all jobs. The table leaves out columns that are the same for
    every image; --json has all. There, `next` is the --after of the next page, or null.

    \b
    Example:
      imagemill images latest --outcome truncated_prompt --limit 10
      imagemill images latest --where "sharpness < 5 and tag <> 'keep'"
    """
    if outcome is not None and state not in (None, ImageState.DONE):
        raise UsageError(f"--outcome is of done images, and --state {state} of others")
    with invocation.reading() as session:
        which = ImageFilter(
            job_id=None if job is None else find_job(session, job).id,
            state=None if state is None else ImageState(state),
            outcome=None if outcome is None else Outcome(outcome),
            model=model,
            row=row,
            code=code,
            key=key,
            sampler=None if sampler is None else _sampler(sampler),
            guidance_scale=guidance_scale,
            seed=seed,
        )
        found = list_where(session, [which], where, limit=limit + 1, after=after)
    page, more = found[:limit], len(found) > limit
    if as_json:
        output.emit({"images": page, "next": page[-1].id if more else None})
    elif not page:
        output.line("no images")
    else:
        _print_images(page)
        if more:
            output.line(f"more: --after {page[-1].id}", error=True)


@click.command()
@pass_invocation
@click.argument("image", type=int, callback=whole(1), required=False)
@click.option("--key", metavar="ID", help="The images of the row that has this id in the manifest.")
@click.option(
    "--job", default="latest", show_default=True, metavar="JOB", help="The job that --key is of."
)
@output.json_option
def show(
    invocation: Invocation, image: int | None, key: str | None, job: str, as_json: bool
) -> None:
    """Show everything that is known about one image.

    Shows its row in the manifest, its request, its file, the environment that rendered it, and its
    history. IMAGE is the id that `imagemill images` lists. --key shows the images of one row
    instead, at most a hundred.

    \b
    Examples:
      imagemill show 1234
      imagemill show --key p003
    """
    if (image is None) == (key is None):
        raise click.UsageError("name an IMAGE by its id, or a row by --key")
    if image is not None:
        with invocation.reading() as session:
            detail = find_image(session, image)
        if as_json:
            output.emit({"image": detail})
        else:
            _print_detail(detail)
        return
    details = _images_of_row(invocation, job, str(key))
    if as_json:
        output.emit({"images": details})
        return
    for place, detail in enumerate(details):
        if place:
            output.line()
        _print_detail(detail)


def _images_of_row(invocation: Invocation, reference: str, key: str) -> list[ImageDetail]:
    """The first images of a job's row; an `UnknownImage` if no row has this id."""
    with invocation.reading() as session:
        found = find_job(session, reference)
        listed = list_images(session, ImageFilter(job_id=found.id, key=key), limit=MOST_SHOWN)
        if not listed:
            raise UnknownImage(f"job {found.id} ({found.name}) has no row with the id {key}")
        return [find_image(session, each.id) for each in listed]


def _sampler(name: str) -> str:
    found = find_sampler(name)
    if found is None:
        raise UsageError(f"no sampler is called {name!r}; `imagemill samplers` lists them")
    return found.name


def _print_images(page: Sequence[ImageReport]) -> None:
    """The images as a table, without the columns that are the same for all of them."""
    listed: list[tuple[Column, list[object], bool]] = [
        (Column(title="IMAGE", right=True), [image.id for image in page], True),
        (_JOB, [image.job_id for image in page], False),
        (Column(title="ROW", right=True), [image.row for image in page], True),
        (_KEY, [image.key for image in page], any(image.key for image in page)),
        (_SAMPLE, [image.sample for image in page], False),
        (Column(title="STATE"), [image.state for image in page], True),
        (_OUTCOME, [image.outcome or image.error_code for image in page], False),
        (_MODEL, [image.model for image in page], False),
        (_SIZE, [f"{image.width}x{image.height}" for image in page], False),
        (Column(title="SAMPLER"), [image.sampler for image in page], False),
        (_STEPS, [image.steps for image in page], False),
        (
            Column(title="GUIDANCE", right=True),
            [f"{image.guidance_scale:g}" for image in page],
            False,
        ),
        (Column(title="SEED", right=True), [image.seed for image in page], True),
        (
            Column(title="PROMPT", elastic=True),
            [image.prompt for image in page],
            True,
        ),
    ]
    shown = [(column, cells) for column, cells, always in listed if always or len(set(cells)) > 1]
    output.table([column for column, _ in shown], zip(*(cells for _, cells in shown), strict=True))


def _print_detail(image: ImageDetail) -> None:
    output.pairs(
        (
            ("image", image.id),
            ("job", f"{image.job_id} ({image.job_name})"),
            ("row", f"{image.row} (line {image.line}), sample {image.sample}"),
            ("key", image.key),
            ("state", image.state),
            ("generation", image.generation if image.generation > 1 else None),
            ("failures", image.failures or None),
            ("error", _error(image.error_code, image.error_message)),
        )
    )
    _section("Asked for")
    asked = {name: _value(value) for name, value in image.specification.items()}
    asked |= {"template": image.template or "", "request_key": image.request_key}
    output.pairs(asked.items())
    if image.extras:
        _section("Other columns")
        output.pairs((name, _value(value)) for name, value in image.extras.items())
    _section("As it stood in the manifest")
    output.line(image.verbatim)
    _print_file(image)
    if image.scores or image.tags:
        _section("Scores and tags")
        output.pairs([*image.scores.items(), ("tags", ", ".join(image.tags))])
    if image.history:
        _section("History")
        _print_history(image.history)


def _print_file(image: ImageDetail) -> None:
    stored = image.file
    if stored is None:
        return
    _section("File")
    output.pairs(
        (
            ("where", stored.uri),
            ("outcome", stored.outcome),
            ("cut prompt", stored.prompt_cut),
            ("size", output.size(stored.size_bytes)),
            ("sha256", stored.sha256),
            ("pixels sha256", stored.pixels_sha256),
            ("rendered", f"{moment(stored.created_at)}, in {stored.seconds:.2f} s"),
            ("recorded batch", _composition(stored.composition)),
        )
    )
    _section("Environment")
    about = {name: _value(value) for name, value in stored.environment_document.items()}
    output.pairs(
        {
            "fingerprint": stored.environment,
            **_certified(stored.certificate, stored.environment_document),
            **about,
        }.items()
    )


def _print_history(history: Sequence[Event]) -> None:
    output.table(
        (
            Column(title="WHEN"),
            Column(title="EVENT"),
            Column(title="GENERATION", right=True),
            Column(title="WORKER", elastic=True),
            Column(title="WHY", elastic=True),
        ),
        (
            (
                moment(event.at),
                event.event,
                event.generation,
                event.worker,
                _error(event.code, event.message),
            )
            for event in history
        ),
    )


def _section(title: str) -> None:
    output.line()
    output.line(title, style="bold")


def _error(code: str | None, message: str | None) -> str | None:
    return None if code is None else f"{code}: {message}"


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _composition(composition: Composition | None) -> str | None:
    if composition is None:
        return None
    ids = ", ".join(map(str, composition.image_ids))
    return f"of images {ids}, in this order, in {composition.slots} slots"


def _certified(
    certificate: Mapping[str, Any] | None, environment: Mapping[str, Any]
) -> dict[str, str]:
    """The result of the image's certificate, in words."""
    if environment.get("reproducible") is False:
        return {"equal bits": "not promised: rendered with reproducible = false"}
    promise = (certificate or {}).get("promise", "independence")
    question = (
        "depends on its recorded batch alone"
        if promise == "composition"
        else "independent of the batch"
    )
    if certificate is None:
        return {question: "not tried"}
    answer = "yes, certified" if certificate["holds"] else "no: see `imagemill certify`"
    return {question: answer}
