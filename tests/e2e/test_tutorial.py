"""docs/tutorial.md from its first prompt to the pushed set: every command of the page is run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from PIL import Image

from tests.docs.test_tutorial import PAGE
from tests.e2e.commands import imagemill
from tests.helpers.http.hub import Hub, serving
from tests.helpers.processes import forks

DIFFERS = "imagemill --home pictures diff "
"""Ends with 1 where something differs."""


def scripts() -> Iterator[tuple[str, int]]:
    """What the page tells to run, with the exit code: a line each, a here-document whole."""
    for kind, block in re.findall(r"^```(sh|console)\n(.*?)^```", PAGE, re.M | re.S):
        if kind == "console":
            told = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
            if "make run" not in told:  # sets up what this test has already
                yield from ((line, 2 if line == "imagemill plan bad.csv" else 0) for line in told)
        elif "<<'END'" in block:
            yield block, 0
        else:
            yield from ((line, int(line.startswith(DIFFERS))) for line in block.splitlines())


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub()) as hub:
        yield hub


@pytest.fixture
def place(open_folder: Path) -> Iterator[Path]:
    """The folder of the tutorial, whose stack is down at the end, however the test ends."""
    yield open_folder
    if (open_folder / "mill").exists():
        imagemill("--home", open_folder / "mill", "down")


def run(script: str, place: Path, environment: Mapping[str, str]) -> CompletedProcess[str]:
    """Run what the page tells to run. What is one plain command needs no shell."""
    if script.startswith("imagemill ") and not re.search(r"[^\w\s'./:=,@-]", script):
        return forks.run(shlex.split(script)[1:], environment=environment, folder=place)
    return subprocess.run(
        ["sh", "-c", script],
        cwd=place,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.timeout(1500)  # some forty processes, three of which render, and a stack
def test_the_whole_page(place: Path, hub: Hub) -> None:
    said: dict[str, str] = {}
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # Who reaches the Hub. What renders is a fork only where nothing is told to the Hub's library.
    pushing = environment | {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        # Xet is another protocol than the Hub's own; what it carries is the same.
        "HF_HUB_DISABLE_XET": "1",
    }
    for script, code in scripts():
        done = run(script, place, pushing if " push " in script else environment)
        assert done.returncode == code, f"{script}\n{done.stdout}\n{done.stderr}"
        said[script] = done.stdout
    assert "1: identical" in said["imagemill --home pictures reproduce 1"]
    pushed = hub.repositories["me/shapes"].branches["main"]
    pictures = [name for name in pushed if name.endswith(".png")]
    assert len(pictures) == 2, "the better image of each of two rows"
    for name in pictures:
        assert pushed[name] == (place / "set" / name).read_bytes()
    assert "2 images imported, 2 new files" in said["imagemill --home other import set"]
    assert Image.open(place / "apart.png").width > 3 * 256
    assert (
        "removed 1 job with 4 images; deleted 4 files"
        in said["imagemill --home pictures rm coarse --yes"]
    )
    assert not list(place.glob("pictures/pictures-*/*-s1.png"))
    assert "prompts" in said["imagemill --home pictures jobs --label keep"]
    assert "4" in said["imagemill --home mill watch latest"].splitlines()[-1]
    assert "worker-1" in said["imagemill --home mill ps"]
