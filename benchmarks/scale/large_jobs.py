"""Jobs of any size, made where they are needed: a first row is copied inside PostgreSQL.

Submitting a million rows takes minutes. Here the first row is inserted as a producer inserts it,
and the database makes the others from it, each with another number, prompt and request key.
"""

from typing import Any

from sqlalchemy import ColumnElement, String, cast, func, insert, literal, select, true, update
from sqlalchemy.orm import Session

from imagemill.db.queries import tallies
from imagemill.db.specs import METADATA_VERSION, canonical_json
from imagemill.db.states import ImageState
from imagemill.db.tables import Image, Job, Row
from tests.helpers.mill import Mill, sha, spec

PROMPT = "a photograph of a red circle on a blue background, soft light, 50 mm, in detail, number "
"""As long as prompts usually are: about ninety characters."""

_CHUNK = 100_000


def load(mill: Mill, name: str, images: int, **turn: Any) -> int:
    """An open job with one ready image for each of so many rows; its id.

    `turn` are fields of `NewJob`, such as `owner`. The database is a PostgreSQL.
    """
    job_id = mill.create(name, **turn)
    mill.insert(job_id, [spec(f"{_prompt(job_id)}1")])
    for first in range(2, images + 1, _CHUNK):
        last = min(first + _CHUNK - 1, images)
        mill.database.run(lambda session, f=first, e=last: _copy_first(session, job_id, f, e))
    mill.open(job_id)
    return job_id


def _copy_first(session: Session, job_id: int, first: int, last: int) -> None:
    rows, images = Row.__table__, Image.__table__
    series = func.generate_series(first, last).table_valued("made", name="series").render_derived()
    made = series.c.made
    text = cast(made, String)
    copy = _copied(
        rows,
        number=made,
        line=made + 1,
        key_base=literal("id:") + text,
        verbatim=literal(f'{{"prompt": "{_prompt(job_id)}') + text + literal('"}'),
    )
    session.execute(
        insert(rows).from_select(
            list(copy),
            select(*copy.values())
            .join_from(rows, series, true())
            .where(rows.c.job_id == job_id, rows.c.number == 1),
        )
    )
    new = rows.alias("new")
    digits = cast(new.c.number, String)
    copy = _copied(
        images,
        row_id=new.c.id,
        prompt=literal(_prompt(job_id)) + digits,
        request_key=_request_key(job_id, digits),
    )
    session.execute(
        insert(images).from_select(
            list(copy),
            select(*copy.values())
            .join_from(images, rows, rows.c.id == images.c.row_id)
            .join(new, new.c.job_id == rows.c.job_id)
            .where(rows.c.job_id == job_id, rows.c.number == 1, new.c.number.between(first, last)),
        )
    )
    group = session.scalars(select(Image.group_id).where(Image.job_id == job_id).limit(1)).one()
    tallies.add_images(session, {(job_id, group, ImageState.READY): last - first + 1})
    session.execute(update(Job).where(Job.id == job_id).values(rows_loaded=last))


def _prompt(job_id: int) -> str:
    """What all prompts of a job begin with. Two jobs share no request."""
    return f"{PROMPT}{job_id}-"


def _request_key(job_id: int, digits: ColumnElement[str]) -> ColumnElement[str]:
    """`ImageSpec.request_key` of the prompts that end in these digits, in PostgreSQL.

    A worker refuses an image whose key is another, so a mistake here would show at once.
    """
    sample = spec(f"{_prompt(job_id)}@")
    fields = {k: v for k, v in sample.document().items() if k not in {"model", "format"}}
    file = {"pixel_key": "@", "format": "png", "quality": None}
    file["metadata_version"] = METADATA_VERSION
    assert sample.request_key() == sha(
        canonical_json(file).replace("@", sha(canonical_json(fields)))
    )
    pixel_key = _sha256(canonical_json(fields), digits)
    return _sha256(canonical_json(file), pixel_key)


def _sha256(template: str, value: ColumnElement[str]) -> ColumnElement[str]:
    """The digest (hex) of a text in which a value stands for the `@`."""
    before, after = template.split("@")
    whole = literal(before) + value + literal(after)
    return func.encode(func.sha256(func.convert_to(whole, "UTF8")), "hex")


def _copied(table: Any, **changed: ColumnElement[Any]) -> dict[str, Any]:
    """Every column of a table but its id, by name; `changed` has the new values of some."""
    copied = {each.name: each for each in table.columns if each.name != "id"}
    return {name: changed.pop(name, each) for name, each in copied.items()}
