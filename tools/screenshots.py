"""The screenshots of the documents, taken anew: `python -m tools.screenshots FOLDER`.

The example is rendered as `make run` does it, and two more jobs, which are scored and tagged.
Their pages are looked at in a headless Chromium. What `docs/images/` has of them is written again.
A folder that has the jobs already is used as it is, so a second call takes seconds.

With `--flower` the picture of Flower alone: the services of `imagemill up` run in the folder for
some minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from imagemill.db.database import Database
from imagemill.db.process.logs import FLOWER_LOGIN
from imagemill.db.settings import Settings
from imagemill.db.storage.factory import open_storage
from tests.helpers.http.browser import Browser, Chromium, find_browser
from tests.helpers.http.gallery import served_gallery

IMAGES = Path(__file__).parents[1] / "docs" / "images"
EXAMPLES = Path(__file__).parents[1] / "examples"
ROWS = (
    {"id": "star", "prompt": "a green star on a white background"},
    {"id": "heart", "prompt": "two blue hearts on a pink background"},
    {"id": "square", "prompt": "a yellow square on a black background"},
    {"id": "ring", "prompt": "a red ring on a blue background"},
)
AXES = ("sampler=ddim,euler,dpmpp_2m", "guidance_scale=1,3,5,7", "steps=5,20")
TILES = "document.querySelectorAll('.tile img').length"
BELOW = "image.getBoundingClientRect().top > innerHeight"
"""Pictures below the window are loaded when somebody scrolls there."""

SHIFT_SECONDS = 20
MANY = 5000
SHOWN_SHIFTS = 8
"""Of Flower's list, which fills a window with ten; two of them go on."""

COLOURS = 128
"""Of a screenshot, which make it a third as large and look the same."""


def main() -> None:
    """Render what is missing, and take every screenshot."""
    parser = argparse.ArgumentParser(description="Take the documents' screenshots anew.")
    parser.add_argument("folder", type=Path, help="where the jobs are, or are made")
    parser.add_argument("--flower", action="store_true", help="take Flower's alone: minutes")
    given = parser.parse_args()
    home = given.folder.absolute()
    program = find_browser()
    if program is None:
        sys.exit("error: there is no Chromium on this machine")
    if given.flower:
        with opened_page(program) as page:
            show_flower(page, home)
        return
    if not (home / "imagemill.sqlite3").exists():
        make_jobs(home)
    draw_sheet(home)
    draw_grid(home)
    settings = Settings.for_home(home)
    database = Database.from_settings(settings)
    with (
        served_gallery(database, open_storage(settings)) as gallery,
        opened_page(program) as page,
    ):
        take_report(page, home / "report.html")
        take_comparison(page, gallery.url, gallery.base)
    database.close()


@contextmanager
def opened_page(program: str) -> Iterator[Browser]:
    """A page of a new browser, which ends with the block."""
    with (
        tempfile.TemporaryDirectory() as profile,
        Chromium(program, Path(profile)) as chromium,
        Browser(chromium) as page,
    ):
        yield page


def make_jobs(home: Path) -> None:
    """Two jobs of the same rows with other seeds; the first is scored and tagged."""
    for name, seed in (("shapes", "7"), ("other seeds", "8")):
        rows = home.parent / f"{home.name}-{name.replace(' ', '-')}.jsonl"
        lines = [json.dumps({**row, "kind": row["id"], "seed": int(seed)}) for row in ROWS]
        rows.write_text("\n".join(lines) + "\n")
        axes = [word for axis in AXES for word in ("--grid", axis)]
        imagemill("run", str(rows), "--out", str(home), "--name", name, *axes)
    imagemill("--home", str(home), "score", "1", "--with", "sharpness,entropy")
    for tag, condition in (("keep", "sharpness > 300"), ("reject", "sharpness < 90")):
        imagemill("--home", str(home), "tag", "1", tag, "--where", condition)
    imagemill("--home", str(home), "report", "1", "-o", str(home / "report.html"))


def draw_sheet(home: Path) -> None:
    """What `make run` shows."""
    out = home / "make-run"
    if not out.exists():
        imagemill("run", str(EXAMPLES / "shapes.csv"), "--out", str(out))
    with Image.open(out / "contact-sheet.png") as opened:
        reduced(opened.convert("RGB")).save(IMAGES / "contact-sheet.png", optimize=True)


def draw_grid(home: Path) -> None:
    """One prompt: a column for each sampler, a row for each guidance scale."""
    imagemill(
        *("--home", str(home), "contact-sheet", "1", "--x", "sampler", "--y", "guidance_scale"),
        *("--where", "steps = 20 and row_key = 'heart'", "--tile", "128"),
        *("-o", str(IMAGES / "grid.png")),
    )


def take_report(page: Browser, file: Path) -> None:
    """The figures, an open picture in the dark, and both on a phone."""
    page.resize(1280, 860)
    page.open(file.as_uri())
    page.wait(f"{TILES} > 0")
    take(page, IMAGES / "report.png")
    page.resize(1280, 720, dark=True)
    page.evaluate(
        "explorer.open(explorer.images.findLastIndex((each) => each.row_key === 'heart'))"
    )
    page.wait("document.querySelector('#stage img').naturalWidth > 0")
    take(page, IMAGES / "report-picture.png")
    with tempfile.TemporaryDirectory() as folder:
        light, dark = Path(folder) / "light.png", Path(folder) / "dark.png"
        page.resize(390, 780, dark=True, phone=True)
        take(page, dark)
        page.resize(390, 780, phone=True)
        page.open(file.as_uri())
        page.evaluate("document.querySelector('#gallery').scrollIntoView()")
        page.wait(f"{TILES} > 0")
        take(page, light)
        both = Image.new("RGB", (800, 780), "#808080")
        for place, each in ((0, light), (410, dark)):
            with Image.open(each) as opened:
                both.paste(opened.convert("RGB"), (place, 0))
    reduced(both).save(IMAGES / "report-phone.png", optimize=True)


def take_comparison(page: Browser, entry: str, base: str) -> None:
    """The two jobs side by side in the gallery."""
    page.resize(1280, 720)
    page.open(entry)
    page.open(f"{base}/jobs/1?with=2")
    page.wait(f"{TILES} > 8")
    page.evaluate("document.querySelector('#gallery').scrollIntoView()")
    page.wait(f"[...document.images].every((image) => image.complete || {BELOW})")
    take(page, IMAGES / "gallery-compare.png")


def show_flower(page: Browser, home: Path) -> None:
    """Two workers' shifts in Flower, while they render."""
    os.environ["IMAGEMILL_SHIFT_SECONDS"] = str(SHIFT_SECONDS)
    imagemill("--home", str(home), "up", "--workers", "2", "--children", "1")
    try:
        rows = home / "many.jsonl"
        lines = (json.dumps({**ROWS[n % len(ROWS)], "id": str(n)}) for n in range(MANY))
        rows.write_text("\n".join(lines) + "\n")
        imagemill("--home", str(home), "submit", str(rows), "--name", "many")
        environment = imagemill("--home", str(home), "env", "--json")["environment"]
        services = imagemill("--home", str(home), "ps", "--json")["services"]
        address = next(each["address"] for each in services if each["service"] == "flower")
        take_flower(page, address, environment[FLOWER_LOGIN])
    finally:
        imagemill("--home", str(home), "down")


def take_flower(page: Browser, address: str, login: str) -> None:
    """Its list of tasks, once so many shifts are over that they fill the window."""
    page.resize(1400, 700)
    entry = f"{address.replace('://', f'://{login}@')}tasks"
    page.open(entry)
    while page.evaluate("document.body.innerText.split('SUCCESS').length") <= SHOWN_SHIFTS:
        time.sleep(SHIFT_SECONDS / 4)
        page.open(entry)
        page.wait("document.querySelectorAll('tbody tr').length > 1")
    take(page, IMAGES / "flower.png")


def take(page: Browser, file: Path) -> None:
    """One screenshot, once the page has drawn what it was told."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.screenshot(file)
    with Image.open(file) as opened:
        whole = opened.convert("RGB")
    reduced(whole).save(file, optimize=True)


def reduced(picture: Image.Image) -> Image.Image:
    """The picture with few colours."""
    return picture.quantize(COLOURS, dither=Image.Dither.NONE)


def imagemill(*words: str) -> Any:
    """One command, whose end is awaited; what it says with `--json`, else None.

    Its errors are shown and end this program.
    """
    command = [sys.executable, "-m", "imagemill", *words]
    told = subprocess.PIPE if "--json" in words else None
    done = subprocess.run(command, check=False, stdout=told, text=True)  # noqa: S603  # ourselves
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout) if told is not None else None


if __name__ == "__main__":
    main()
