"""`tag` and `untag`: words on images, which conditions and exports know."""

from collections.abc import Callable, Sequence

import click

from imagemill.db.database import Database
from imagemill.scheduler_jobs.cli import output
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.cli.output import plural
from imagemill.scheduler_jobs.curation.chosen import named_images
from imagemill.scheduler_jobs.curation.tagging import check_tag, tag_images, untag_images

where_option = click.option(
    "--where", metavar="CONDITION", help="Only these images: \"clip_score > 0.3 and tag = 'keep'\"."
)


@click.command()
@pass_invocation
@click.argument("what", metavar="JOB|image:ID,...")
@click.argument("tag_name", metavar="TAG")
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
@click.argument("what", metavar="JOB|image:ID,...")
@click.argument("tag_name", metavar="TAG")
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
