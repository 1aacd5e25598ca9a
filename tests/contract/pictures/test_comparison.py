"""Two jobs compared on both databases: rows, parameters, states, and real pixels."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from imagemill.db.queries.pictures import comparison, objects
from imagemill.db.specs import ImageSpec
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.comparison import PixelDifference, Totals, compare, difference_of
from imagemill.scheduler_jobs.pages.difference_sheet import difference_sheet
from tests.helpers.mill import Mill, spec, stored


@pytest.fixture
def folder(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "store")


def picture(seed: int, *, spots: int = 0, size: int = 64) -> bytes:
    """A grey picture with some pixels that are three lighter."""
    drawn = Image.new("RGB", (size, size), (100 + seed, 100, 100))
    for spot in range(spots):
        drawn.putpixel((spot, 10), (103 + seed, 100, 100))
    file = io.BytesIO()
    drawn.save(file, "PNG")
    return file.getvalue()


def render(mill: Mill, store: FolderStorage, bodies: dict[str, bytes]) -> None:
    """Complete every ready image with the file of its prompt; leave those without one."""
    shift = mill.shift()
    files = []
    for image in mill.claim(shift, limit=100):
        body = bodies.get(image.spec.prompt if image.spec else "")
        if body is None:
            continue
        digest = hashlib.sha256(body).hexdigest()
        key = f"{image.request_key[:2]}/{image.request_key}-{digest}.png"
        store.put(key, body, media_type="image/png")
        file = replace(stored(image.request_key), object_key=key, sha256=digest)
        pixels = hashlib.sha256(Image.open(io.BytesIO(body)).tobytes()).hexdigest()
        files.append(replace(file, size_bytes=len(body), pixels_sha256=pixels))
    mill.database.run(
        lambda session: objects.complete(
            session, shift_id=shift, environment_id=mill.environment_id, stored=files
        )
    )
    mill.give_back(shift)
    mill.end(shift)


def compared(mill: Mill, store: FolderStorage | None, a: int, b: int):
    totals = Totals()
    found = list(compare(mill.database, store, a, b, totals, listed_b=10))
    return totals, found


def rows(*prompts: str, steps: int = 20) -> list[ImageSpec]:
    return [replace(spec(prompt), steps=steps) for prompt in prompts]


def test_equal_jobs_do_not_differ(mill: Mill, folder) -> None:
    a = mill.load("a", ["x", "y"])
    render(mill, folder, {"x": picture(1), "y": picture(2)})
    totals, found = compared(mill, folder, a, mill.load("b", ["x", "y"]))
    assert found == []
    assert (totals.matched, totals.pixels_equal, totals.differ) == (2, 2, False)


@pytest.mark.parametrize("page", [1, 1000])
def test_everything_that_differs_is_told(mill: Mill, folder, monkeypatch, page: int) -> None:
    monkeypatch.setattr(comparison, "PAGE", page)
    a = mill.load("a", rows("same", "steps", "dead", "only a"), samples=1)
    render(mill, folder, {"same": picture(1), "steps": picture(2), "dead": picture(3)})
    b = mill.load("b", [*rows("same"), *rows("steps", steps=30), *rows("dead", steps=30)])
    render(mill, folder, {"steps": picture(2, spots=5)})
    totals, found = compared(mill, folder, a, b)
    assert (totals.matched, totals.only_a, totals.only_b) == (3, 1, 0)
    assert totals.columns == {"steps": 2}
    assert (totals.pixels_equal, totals.pixels_differ, totals.not_compared) == (1, 1, 1)
    steps, dead, only = found
    assert steps.parameters == {"steps": (20, 30)}
    assert steps.pixels == PixelDifference(pixels=4096, differing=5, largest=3)
    assert dead.states == ("done", "ready")
    assert (only.a.row_key, only.b) == ("4", None)
    # The other way round, the same image is only in B.
    totals, found = compared(mill, folder, b, a)
    assert (totals.only_a, totals.only_b) == (0, 1)
    assert found[-1].b.row_key == "4"
    quick, _ = compared(mill, None, a, b)
    assert quick.pixels_differ == 1


def test_samples_are_matched_by_their_number(mill: Mill, folder) -> None:
    a = mill.load("a", rows("x"), samples=3)
    b = mill.load("b", rows("x"), samples=2)
    totals, found = compared(mill, folder, a, b)
    assert (totals.matched, totals.only_a) == (2, 1)
    assert found[0].a.place[2] == 2


def test_pictures_of_other_sizes_and_broken_ones_are_no_error() -> None:
    assert difference_of(picture(1), picture(1, size=32))[0].why == "other size"
    assert difference_of(picture(1), b"no picture")[0].why == "a file can't be read as a picture"


def test_the_sheet_shows_both_and_the_difference_amplified(mill: Mill, folder) -> None:
    a = mill.load("a", rows("x", "y"))
    render(mill, folder, {"x": picture(1), "y": picture(1)})
    b = mill.load("b", rows("x", "y", steps=30))
    render(mill, folder, {"x": picture(1, spots=64), "y": picture(9, size=32)})
    _, found = compared(mill, folder, a, b)
    sheet = difference_sheet(found, folder, tile_size=64, title="A and B")
    assert sheet.width == 2 * 32 + 3 * 64 + 2 * 20
    left = 32 + 2 * (64 + 20)
    colours = {sheet.getpixel((left + 32, top)) for top in range(sheet.height)}
    assert (255, 0, 0) in colours, "the largest difference of red is white in red"
    assert difference_sheet([], folder, tile_size=64, title="").height > 0
