"""`tag`, `untag`, `pick` and `duplicates`: choosing among finished images."""

from collections.abc import Callable, Sequence
from typing import Any

import click
from sqlalchemy.orm import Session

from imagemill.db.database import Database
from imagemill.db.documents import document
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.db.queries.pictures.tags import tagged_images
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, plural
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.curation.chosen_images import named_images
from imagemill.scheduler_jobs.curation.duplicates import Duplicates, find_duplicates
from imagemill.scheduler_jobs.curation.hamming import MOST_DISTANCE
from imagemill.scheduler_jobs.curation.picks import GROUPS, pick_images
from imagemill.scheduler_jobs.curation.tags import check_tag, tag_images, untag_images

SHOWN_GROUPS = 20

_SHOWN_IDS = 8

_images = click.argument("what", metavar="JOB|image:ID,...")
_tag_name = click.argument("tag_name", metavar="TAG")
where_option = click.option(
    "--where", metavar="CONDITION", help="Only these images: \"clip_score > 0.3 and tag = 'keep'\"."
)


@click.command()
@pass_invocation
@_images
@_tag_name
@where_option
@output.json_option
def tag(invocation: Invocation, what: str, tag_name: str, where: str | None, as_json: bool) -> None:
    """Give a tag to images.

    Of a job these are its finished ones. `--where "tag = 'keep'"` finds them again, in every
    command that takes a condition.

    \b
    Example:
      imagemill tag latest keep --where "sharpness > 100"
      imagemill tag image:12,13 keep
    """
    _change(invocation, what, tag_name, where, tag_images, word="tagged", as_json=as_json)


@click.command()
@pass_invocation
@_images
@_tag_name
@where_option
@output.json_option
def untag(
    invocation: Invocation, what: str, tag_name: str, where: str | None, as_json: bool
) -> None:
    """Take a tag from images.

    \b
    Example:
      imagemill untag latest keep --where "blank = 1"
    """
    _change(invocation, what, tag_name, where, untag_images, word="untagged", as_json=as_json)


def _change(
    invocation: Invocation,
    what: str,
    tag_name: str,
    where: str | None,
    change: Callable[[Database, Sequence[int], str], int],
    *,
    word: str,
    as_json: bool,
) -> None:
    name = check_tag(tag_name)
    with invocation.reading() as session:
        ids = named_images(session, what, where)
    changed = change(invocation.database, ids, name)
    if as_json:
        output.emit({"tag": name, "images": len(ids), word: changed})
        return
    rest = len(ids) - changed
    said = "had it already" if word == "tagged" else "did not have it"
    output.line(
        f"{plural(changed, 'image')} {word} {name}" + (f", {rest:,} {said}" if rest else "")
    )


@click.command()
@pass_invocation
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--by", required=True, metavar="COLUMN", help="A score, or any other number.")
@click.option(
    "--best", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="How many."
)
@click.option(
    "--per",
    type=click.Choice(list(GROUPS)),
    default="row",
    show_default=True,
    help="Of which images the best are picked.",
)
@click.option("--lowest", is_flag=True, help="The smaller the better.")
@where_option
@click.option(
    "--tag",
    "tag_name",
    default="picked",
    show_default=True,
    metavar="TAG",
    help="The tag that they get.",
)
@click.option("--replace", is_flag=True, help="Take the tag from the jobs' other images.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would pick.")
@output.json_option
def pick(
    invocation: Invocation,
    /,
    jobs: tuple[str, ...],
    *,
    tag_name: str,
    replace: bool,
    dry_run: bool,
    as_json: bool,
    **choice: Any,
) -> None:
    """Tag the best images of each row, prompt or job by a score.

    Images without that score are never picked. --where sets thresholds.

    \b
    Example:
      imagemill pick latest --by sharpness --best 1 --where "blank = 0" --tag keep
    """
    name = check_tag(tag_name)
    with invocation.reading() as session:
        ids = _job_ids(session, jobs)
        picked = pick_images(session, ids, **choice)
        before = set().union(*(tagged_images(session, job_id, name) for job_id in ids))
    gone = sorted(before - set(picked)) if replace else []
    if not dry_run:
        tag_images(invocation.database, picked, name)
        untag_images(invocation.database, gone, name)
    if as_json:
        output.emit({"tag": name, "picked": picked, "untagged": gone, "dry_run": dry_run})
        return
    verb = "would be " if dry_run else ""
    rest = f", {len(gone):,} others {verb}untagged" if gone else ""
    output.line(f"{plural(len(picked), 'image')} {verb}tagged {name}{rest}")


@click.command()
@pass_invocation
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option(
    "--distance",
    type=click.IntRange(0, MOST_DISTANCE),
    default=4,
    show_default=True,
    metavar="BITS",
    help="In how many of the hash's 64 bits near-duplicates may differ.",
)
@where_option
@click.option(
    "--by", metavar="COLUMN", help="Keep the image with the largest value, not the first."
)
@click.option("--tag", "tag_name", metavar="TAG", help="Give all but the kept images this tag.")
@output.json_option
def duplicates(
    invocation: Invocation,
    jobs: tuple[str, ...],
    *,
    distance: int,
    where: str | None,
    by: str | None,
    tag_name: str | None,
    as_json: bool,
) -> None:
    """Find groups of near-duplicates by perceptual hash.

    The pictures need the score `phash`. The first image of each group is the one to keep.

    \b
    Example:
      imagemill score latest --with phash
      imagemill duplicates latest --distance 4 --tag duplicate
    """
    name = None if tag_name is None else check_tag(tag_name)
    with invocation.reading() as session:
        ids = _job_ids(session, jobs)
        found = find_duplicates(session, ids, distance=distance, where=where, by=by)
    if name is not None:
        tag_images(invocation.database, found.others, name)
    if as_json:
        output.emit({"distance": distance, "tag": name, **document(found)})
        return
    _print_duplicates(found, name)


def _job_ids(session: Session, jobs: Sequence[str]) -> list[int]:
    return list(dict.fromkeys(find_job(session, job).id for job in jobs))


def _print_duplicates(found: Duplicates, name: str | None) -> None:
    largest = sorted(found.groups, key=len, reverse=True)
    if largest:
        output.table(
            (
                Column(title="IMAGES", right=True),
                Column(title="KEEP", right=True),
                Column(title="OTHERS", elastic=True),
            ),
            ((len(group), group[0], _listed(group[1:])) for group in largest[:SHOWN_GROUPS]),
        )
    if len(largest) > SHOWN_GROUPS:
        output.line(f"… and {len(largest) - SHOWN_GROUPS:,} more groups (--json lists all)")
    tagged = "" if name is None else f", tagged {name}"
    output.line(
        f"{plural(len(largest), 'group')} of near-duplicates among "
        f"{plural(found.compared, 'image')}: {len(found.others):,} could go{tagged}"
    )
    if found.without_hash:
        output.line(
            f"{plural(found.without_hash, 'image')} without a perceptual hash: "
            "`imagemill score JOB --with phash`"
        )


def _listed(ids: Sequence[int]) -> str:
    more = f" … {len(ids) - _SHOWN_IDS:,} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(map(str, ids[:_SHOWN_IDS])) + more
