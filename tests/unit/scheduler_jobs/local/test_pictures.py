"""The readable names that `run` leaves: which picture is which, on every file system."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagemill.db.errors import UsageError
from imagemill.db.queries.pictures.image_reports import ImageFilter, ImageReport, list_images
from imagemill.scheduler_jobs.local import pictures
from imagemill.scheduler_jobs.local.pictures import name_pictures
from imagemill.scheduler_jobs.picture_names import PictureNames, check_columns
from tests.helpers.mill import Mill

IMAGE = ImageReport(
    id=7,
    job_id=1,
    row=1,
    key="p003",
    sample=0,
    state="done",
    outcome="ok",
    model="shapes64",
    prompt="a red circle",
    negative_prompt="",
    seed=12,
    width=64,
    height=96,
    steps=20,
    guidance_scale=7.5,
    sampler="dpmpp_2m",
    format="png",
    options={},
    object_key="ab/c.png",
    uri=None,
    sha256=None,
    error_code=None,
    error_message=None,
    extras={"mood": "calm/grey", "level": 3},
)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{row}-{prompt}-s{sample}", "0001-a-red-circle-s0.png"),
        ("{key}", "p003.png"),
        ("{key}.{ext}", "p003.png"),
        ("{sampler}/{guidance}-{steps}-{seed}", "dpmpp_2m/7.5-20-12.png"),
        ("{model}_{size}_{width}x{height}", "shapes64_64x96_64x96.png"),
        ("{mood} {level} {image}", "calm-grey 3 7.png"),
        ("{absent}", "none.png"),
        ("con", "_con.png"),
        ("../../{key}", "untitled/untitled/p003.png"),
    ],
)
def test_a_template_takes_every_column(template, name):
    assert PictureNames(template).name(IMAGE) == name


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("❤\ufe0f", "untitled"),
        ("\U0001f469\u200d\U0001f680", "untitled"),  # two pictures and a joiner: an astronaut
        ("❤\ufe0f love ❤\ufe0f", "love"),
        ("1\ufe0f\u20e3 cat", "1\u20e3-cat"),
        ("می\u200cخواهم", "میخواهم"),
        ("\u202eabc\u2066d", "abcd"),
        ("zero\u200bwidth", "zero-width"),
        ("\u3164\U000e0101", "untitled"),
    ],
)
def test_nothing_that_nobody_sees_is_in_a_name(prompt, name):
    image = replace(IMAGE, prompt=prompt, extras={"mood": prompt})
    assert PictureNames("{prompt}").name(image) == f"{name}.png"
    plain = PictureNames("{mood}").name(image).replace(" ", "-")
    assert plain.replace("-.png", ".png") == f"{name}.png"


def test_row_numbers_have_equal_digits():
    assert PictureNames("{row}", rows=123_456).name(IMAGE) == "000001.png"


@pytest.mark.parametrize("template", ["{row", "{}", "{row!r}", "{row:>9}", "a//b", "", "/a"])
def test_a_broken_template_is_refused(template):
    with pytest.raises(UsageError, match="--picture-name"):
        PictureNames(template)


def test_a_name_that_is_no_column_is_refused():
    names = PictureNames("{key}-{moood}")
    with pytest.raises(UsageError, match=r"nothing is called \{moood\}.*mood"):
        check_columns(names, IMAGE.extras)
    check_columns(PictureNames("{mood}{row}"), IMAGE.extras)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.text(), min_size=1, max_size=8), st.sampled_from(["{prompt}", "{key}", "{mood}"])
)
def test_names_are_safe_and_never_the_same(texts, template):
    names = PictureNames(template)
    found = [
        names.name(replace(IMAGE, prompt=text, key=text, extras={"mood": text})) for text in texts
    ]
    again = PictureNames(template)
    assert found == [
        again.name(replace(IMAGE, prompt=text, key=text, extras={"mood": text})) for text in texts
    ]
    folded = {unicodedata.normalize("NFKC", name).casefold() for name in found}
    assert len(folded) == len(texts)
    for name in found:
        assert len(name.encode()) <= 200
        assert not set(name) & set('/\\:*?"<>|\0\n')
        assert name.endswith(".png")
        assert name[0] not in " .-"


@pytest.fixture
def stored(mill: Mill, tmp_path: Path) -> tuple[Mill, int, Path]:
    """A job of three equal prompts, two of them done, with their files."""
    job = mill.load("shapes", ["a circle", "a circle", "A Circle"])
    shift = mill.shift()
    for image in mill.claim(shift, limit=3)[:2]:
        mill.complete(shift, [image])
    return mill, job, tmp_path / "objects"


def named(mill: Mill, job: int, store: Path, template: str = "{prompt}"):
    return name_pictures(
        mill.database,
        job,
        store=store,
        folder=store.parent / "pictures",
        names=PictureNames(template),
    )


def files(store: Path, mill: Mill, job: int) -> None:
    with mill.database.reading() as session:
        images = list_images(session, ImageFilter(job_id=job), limit=10)
    for image in images:
        if image.object_key:
            (store / image.object_key).parent.mkdir(parents=True, exist_ok=True)
            (store / image.object_key).write_bytes(image.object_key.encode())


@pytest.mark.parametrize("links", [True, False])
def test_pictures_get_their_names_once(stored, monkeypatch, links):
    mill, job, store = stored
    files(store, mill, job)
    if not links:

        def refuse(*_args, **_options):
            raise PermissionError(1, "no links here")

        monkeypatch.setattr(pictures.os, "link", refuse)
    first = named(mill, job, store)
    there = sorted(path.name for path in first.folder.iterdir())
    done = first.named
    assert done >= 1
    assert first.taken == 0
    assert len(there) == done
    assert there[0].startswith("a-circle")
    inodes = {path.name: path.stat().st_ino for path in first.folder.iterdir()}
    assert named(mill, job, store) == first
    assert inodes == {path.name: path.stat().st_ino for path in first.folder.iterdir()}
    linked = [path.stat().st_nlink for path in first.folder.iterdir()]
    assert all((count > 1) == links for count in linked)


def test_a_name_that_somebody_uses_is_left_alone(stored):
    mill, job, store = stored
    files(store, mill, job)
    first = named(mill, job, store, "{row}")
    mine = first.folder / "0001.png"
    mine.unlink()
    mine.write_bytes(b"my own work")
    again = named(mill, job, store, "{row}")
    assert (again.named, again.taken) == (first.named - 1, 1)
    assert mine.read_bytes() == b"my own work"
