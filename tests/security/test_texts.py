"""Control and bidi characters, and SQL in names: shown to nobody's terminal, kept in the data."""

import json
from pathlib import Path

import pytest
from sqlalchemy import select, text

from imagemill.db.queries.fleet.reports import list_bad_rows
from imagemill.db.tables import Image, Row
from tests.helpers.mill import CRASH, Mill
from tests.security.conftest import BIDI_AND_CONTROLS
from tests.unit.conftest import CommandLine

NAMES = (
    "'; DROP TABLE images; --",
    '" OR 1=1 --',
    "latest'; DELETE FROM jobs; --",
    "%",
    "_",
    "*",
    "1 OR 1=1",
    "0x1",
    "../latest",
    "job\x1b[2J\u202e",
)


def printable(output: str) -> bool:
    return all(line.isprintable() for line in output.splitlines())


@pytest.mark.parametrize(
    "command",
    [
        ("jobs",),
        ("status", "latest"),
        ("images", "latest"),
        ("images", "latest", "--state", "dead"),
        ("show", "1"),
        ("errors", "latest"),
        ("watch", "latest"),
    ],
    ids=" ".join,
)
def test_no_text_of_a_manifest_reaches_a_terminal_raw(
    at_home: CommandLine, mill: Mill, command: tuple[str, ...]
) -> None:
    job = mill.load(BIDI_AND_CONTROLS, [BIDI_AND_CONTROLS])
    shift = mill.shift()
    (image,) = mill.claim(shift)
    message = f"it failed on {BIDI_AND_CONTROLS}"
    failure = CRASH.__class__(code="render", message=message, retryable=False, solo=True)
    mill.fail(shift, image.id, failure)
    mill.finish_jobs()
    answer = at_home(*command)
    assert printable(answer.out), repr(answer.out)
    assert printable(answer.err), repr(answer.err)
    assert mill.image(image.id).prompt == BIDI_AND_CONTROLS
    assert mill.job(job).name == BIDI_AND_CONTROLS


def test_json_has_every_character_as_it_was(at_home: CommandLine, mill: Mill) -> None:
    mill.load("job", [BIDI_AND_CONTROLS])
    answer = at_home("show", "1", "--json")
    assert answer.out.isascii()
    assert BIDI_AND_CONTROLS in json.dumps(answer.json, ensure_ascii=False).encode().decode() or (
        BIDI_AND_CONTROLS in str(answer.json.values())
        or json.dumps(BIDI_AND_CONTROLS) in answer.out
    )


def test_a_manifest_s_texts_are_stored_exactly(
    at_home: CommandLine, mill: Mill, tmp_path: Path
) -> None:
    manifest = tmp_path / "m.jsonl"
    extra = {"note\u202e": BIDI_AND_CONTROLS}
    manifest.write_text(json.dumps({"prompt": BIDI_AND_CONTROLS, **extra}) + "\n")
    answer = at_home("submit", manifest)
    assert answer.code in {0, 3}, answer.err  # 3: recorded, but no broker here
    assert printable(answer.out + answer.err)
    with mill.database.reading() as session:
        assert session.scalars(select(Image.prompt)).all() == [BIDI_AND_CONTROLS]
        assert session.scalars(select(Row.extras)).all() == [extra]


def test_bad_rows_are_printed_without_their_escapes(at_home: CommandLine, tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    bad = {"prompt": "x", "steps": BIDI_AND_CONTROLS, BIDI_AND_CONTROLS: {"a": float("inf")}}
    manifest.write_text(json.dumps(bad) + "\n")
    for options in ((), ("--map", f"{BIDI_AND_CONTROLS}=prompt"), ("--map", "x=\x1b[31m")):
        answer = at_home("plan", manifest, *options)
        assert answer.code == 2
        assert printable(answer.out + answer.err), repr(answer.out + answer.err)


@pytest.mark.parametrize("name", [BIDI_AND_CONTROLS, "<script>alert(1)</script>", "a%h"])
def test_a_worker_s_name_is_plain(imagemill: CommandLine, name: str) -> None:
    """It stands in Flower's pages and metrics, and in every worker's log."""
    answer = imagemill("worker", "--name", name)
    assert answer.code == 2
    assert ("allowed: 1 to 64 letters" if name else "--name': an empty text") in answer.err
    assert printable(answer.out + answer.err)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "command",
    ["status", "errors", "images", "cancel", "pause", "resume", "retry", "watch", "contact-sheet"],
)
def test_a_job_s_name_is_never_sql(
    at_home: CommandLine, mill: Mill, command: str, name: str
) -> None:
    job = mill.load("innocent", ["a cat"])
    answer = at_home(command, name)
    assert answer.code == 2, answer.out + answer.err
    assert printable(answer.out + answer.err)
    assert mill.counts(job).ready == 1
    assert mill.job(job).state == "open"


@pytest.mark.parametrize("value", NAMES)
@pytest.mark.parametrize("option", ["--state", "--outcome", "--model", "--code", "--after"])
def test_a_filter_is_never_sql(at_home: CommandLine, mill: Mill, option: str, value: str) -> None:
    job = mill.load("innocent", ["a cat"])
    answer = at_home("images", "latest", option, value, "--json")
    assert answer.code in {0, 2}
    if answer.code == 0:
        assert answer.json["images"] == []
    assert mill.counts(job).ready == 1


def test_columns_names_and_ids_are_never_sql(
    at_home: CommandLine, mill: Mill, tmp_path: Path
) -> None:
    manifest = tmp_path / "'; DROP TABLE jobs; --.jsonl"
    rows = [{"prompt": "a cat", "id": name, name: name, "x') --": 1} for name in NAMES]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = at_home("submit", manifest, "--name", NAMES[0])
    assert answer.code in {0, 3}, answer.err
    with mill.database.reading() as session:
        found = session.execute(text("SELECT row_key, extras FROM dataset_images")).all()
        assert list_bad_rows(session, 1, limit=10) == []
    assert {row.row_key for row in found} == {f"id:{name}" for name in NAMES}
    assert mill.audit() == []
