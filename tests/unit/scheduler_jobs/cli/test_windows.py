"""What a person sees in windows of 80 and 140 columns, and what a pipe gets."""

import fcntl
import os
import pty
import re
import select
import struct
import termios
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from imagemill.db.database import Database
from imagemill.db.queries.pictures.exports import record_export
from imagemill.db.samplers.names import OWN, SAMPLERS
from imagemill.db.settings import Settings
from tests.helpers.mill import REFUSED, spec
from tests.helpers.processes import forks

pytestmark = pytest.mark.commands

WIDTHS = (80, 140)
LONG = "a very long prompt of many words " * 12 + "with an end"


def on_terminal(width: int, *commands) -> list[str]:
    """What each command writes to a terminal of this width, without its colours."""
    return [_shown(width, list(map(str, words))) for words in commands]


def _shown(width: int, words: list[str]) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {n: v for n, v in os.environ.items() if n not in {"COLUMNS", "LINES"}}
    terminal = Path(os.ttyname(theirs))
    command = forks.start(
        "imagemill", *words, environment=environment | {"TERM": "xterm"}, output=terminal
    )
    seen = b""
    while command.poll() is None:
        if select.select([ours], [], [], 0.01)[0]:
            seen += os.read(ours, 65536)
    os.close(theirs)
    with suppress(OSError):  # all is read, and the other side is closed
        while part := os.read(ours, 65536):
            seen += part
    os.close(ours)
    assert command.wait() == 0, seen.decode()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode()).replace("\r\n", "\n")


def in_pipe(width: int, *commands) -> list[str]:
    """What each command writes where there is no terminal."""
    done = [
        forks.run(list(map(str, words)), environment={"COLUMNS": str(width)}) for words in commands
    ]
    assert [each.stderr for each in done if each.returncode != 0] == []
    return [each.stdout for each in done]


@pytest.fixture
def worked(mill):
    """One image that is done and one that is dead, with a long prompt and a long reason."""
    job = mill.load("long", [spec(LONG), spec(LONG, seed=2)])
    shift = mill.shift()
    first, second = mill.claim(shift)
    mill.complete(shift, [first])
    mill.begin(shift, [second.id])
    mill.fail(shift, second.id, replace(REFUSED, message=LONG))
    return job


@pytest.mark.parametrize("width", WIDTHS)
def test_no_sampler_s_name_is_cut_in_a_window(width):
    (text,) = on_terminal(width, ["samplers"])
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for sampler in (*SAMPLERS, OWN):
        for name in (sampler.name, sampler.diffusers_class, *sampler.aliases):
            assert name in text


@pytest.mark.parametrize("width", WIDTHS)
def test_no_model_s_name_or_source_is_cut_in_a_window(width, tmp_path, monkeypatch):
    names = [f"a-model-with-a-name-that-fills-{n}-half-of-a-window" for n in range(2)]
    registry = tmp_path / "models.toml"
    registry.write_text(
        "".join(f'[models.{n}]\nsource = "someone/{n}"\nrevision = "{"a" * 40}"\n' for n in names)
    )
    monkeypatch.setenv("IMAGEMILL_MODELS", str(registry))
    monkeypatch.setenv("IMAGEMILL_MODEL_CACHE", str(tmp_path / "cache"))
    text = "".join(on_terminal(width, ["models"])[0].split())
    for name in names:
        assert f"someone/{name}" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_no_job_s_name_is_cut_in_a_window(width, home, mill):
    name = "a-job-with-a-name-that-fills-more-than-half-of-a-window"
    mill.load(name, ["a"])
    for text in on_terminal(width, *(["--home", home, command] for command in ("jobs", "status"))):
        lines = text.splitlines()
        assert max(map(len, lines)) <= width
        begin, end = lines[0].index("NAME"), lines[0].index("STATE")
        assert "".join(line[begin:end].strip() for line in lines[1:]).startswith(name)


@pytest.mark.parametrize("width", WIDTHS)
def test_an_export_s_place_is_whole_in_a_window_and_near_where_it_can_be(width, home, monkeypatch):
    monkeypatch.chdir(home)
    far = "/data/" + "a-folder-with-a-long-name/" * 3 + "set"
    database = Database.from_settings(Settings.for_home(home))
    document = {"format": "t2i-compbench", "images": 24, "digest": "0" * 64}
    for target in (str(home / "my-set"), "s3://sets/shapes"):
        database.run(
            lambda session, to=target: record_export(session, target=to, document=document)
        )
    (near,) = on_terminal(width, ["--home", home, "exports"])
    assert str(home / "my-set") not in near
    assert " my-set" in near
    assert "s3://sets/shapes" in near
    database.run(lambda session: record_export(session, target=far, document=document))
    database.close()
    lines = on_terminal(width, ["--home", home, "exports"])[0].splitlines()
    assert max(map(len, lines)) <= width
    assert far in "".join(line.strip() for line in lines)
    assert str(home / "my-set") in in_pipe(width, ["--home", home, "exports"])[0]


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_in_a_pipe(width, home, worked):
    commands = (["images"], ["errors", "long"], ["show", "1"], ["status", "long"])
    texts = in_pipe(width, *(["--home", home, *words] for words in commands))
    for words, text in zip(commands, texts, strict=True):
        assert "…" not in text, words
        if words != ["status", "long"]:
            assert LONG in text, words
    assert LONG in text


@pytest.mark.parametrize("width", WIDTHS)
def test_a_list_of_images_fits_its_window(width, home, worked, monkeypatch):
    monkeypatch.chdir(home.parent)  # the commands that are offered name the home as it was typed
    commands = (["images"], ["status"], ["jobs"], ["errors", "long"])
    texts = on_terminal(width, *(["--home", home.name, *words] for words in commands))
    for words, text in zip(commands, texts, strict=True):
        lines = text.splitlines()
        assert max(map(len, lines)) <= width, words
