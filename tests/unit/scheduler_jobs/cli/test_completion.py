"""What a shell is offered, and that it never hears of an error."""

import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from imagemill.scheduler_jobs.cli import completion
from imagemill.scheduler_jobs.cli.command_table import COMMANDS
from tests.helpers.places import ROOT
from tests.helpers.processes import forks

pytestmark = pytest.mark.commands

CLI_PAGE = ROOT / "docs" / "cli.md"


def offered(*words, incomplete="", **environment):
    """The values that bash is offered after these words, and what stands on standard error."""
    line = ["imagemill", *map(str, words), incomplete]
    asked = {
        "_IMAGEMILL_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(line) - 1),
        **environment,
    }
    # A server that is waited for ends in the time limit of tests; no machine is too slow for that.
    done = forks.run([], environment=asked)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line], done


def test_commands_are_offered_without_importing_them():
    found, _ = offered(incomplete="s")
    assert found == [name for name in COMMANDS if name.startswith("s")]


def test_jobs_of_the_folder_are_offered(home, mill):
    mill.load("landscapes", ["a"])
    mill.load("last-night", ["b"])
    mill.load("$(reboot) `x` 'y'", ["c"])
    assert offered("--home", home, "status", incomplete="la")[0] == [
        *("latest", "last-night", "landscapes"),
    ]
    assert offered("watch", "--home", home, incomplete="land")[0] == ["landscapes"]
    # A name that the shell would read as a command is never put onto its line.
    assert not any("reboot" in name for name in offered("--home", home, "errors")[0])


def test_models_and_samplers_are_offered():
    assert "shapes64" in offered("plan", "x.csv", "--model", incomplete="shap")[0]
    found, _ = offered("certify", "--model", incomplete="shap")
    assert found == ["shapes64"], "commands of the GPU side too"
    assert set(offered("images", "--sampler", incomplete="eul")[0]) >= {"euler", "euler_a"}


def test_files_are_left_to_the_shell():
    for words in (["submit"], ["run", "x.csv", "--init-image"], ["reproduce"]):
        assert offered(*words, incomplete="pro")[1].stdout.splitlines() == ["file,pro"]


@pytest.mark.parametrize("bad", ["no url", "sqlite:////nowhere/at/all.sqlite3"])
def test_trouble_offers_nothing_and_says_nothing(bad):
    found, done = offered("status", incomplete="x", IMAGEMILL_DATABASE_URL=bad)
    assert (found, done.returncode) == ([], 0)
    assert offered("status", incomplete="x", IMAGEMILL_SLOTS="many")[0] == []
    assert offered("no-such-command", incomplete="x")[0] == []


def test_a_server_that_does_not_answer_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://me@127.0.0.1:{silent.getsockname()[1]}/x"
        found, _ = offered("status", incomplete="la", IMAGEMILL_DATABASE_URL=url)
    assert found == ["latest"]
    assert completion.MOST_SECONDS <= 1


DOCUMENTED = {
    "bash": (
        'eval "$(_IMAGEMILL_COMPLETE=bash_source imagemill)"\n'
        "COMP_WORDS=(imagemill --home {home} status lan); COMP_CWORD=4\n"
        '_imagemill_completion imagemill; echo "${{COMPREPLY[@]}}"\n'
    ),
    # zsh asks a completion function for values only within its line editor; these two take its
    # place, and print what the function hands over.
    "zsh": (
        "compdef() {{ : }}; compadd() {{ local n=$@[-1]; print -r -- ${{(P)n}} }}\n"
        "_describe() {{ local n=$@[-2]; print -r -- ${{(P)n}} }}\n"
        'eval "$(_IMAGEMILL_COMPLETE=zsh_source imagemill)"\n'
        "words=(imagemill --home {home} status lan); CURRENT=5\n"
        "_imagemill_completion\n"
    ),
    "fish": (
        "_IMAGEMILL_COMPLETE=fish_source imagemill | source\n"
        'complete --do-complete "imagemill --home {home} status lan"\n'
    ),
}
"""The line of `docs/cli.md` for each shell, and the asking for one completion."""

_TRIES = 20
"""On a busy machine a question may take longer than a person is let wait: then nothing is said."""

STARTED = {"bash": ["bash", "-c"], "zsh": ["zsh", "-f", "-c"], "fish": ["fish", "-N", "-c"]}


@pytest.mark.parametrize("shell", DOCUMENTED)
def test_the_documented_line_works(home, mill, tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    mill.load("landscapes", ["a"])
    command = tmp_path / "bin" / "imagemill"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m imagemill "$@"\n')
    command.chmod(0o755)
    for _ in range(_TRIES):
        done = subprocess.run(
            [*STARTED[shell], DOCUMENTED[shell].format(home=home)],
            env=os.environ | {"PATH": f"{command.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.stdout.strip() or done.stderr:
            break
    # zsh and fish show what a value is beside it.
    value, *described = re.split(r"[\t:]", done.stdout.strip())
    assert (value, described, done.stderr) == (
        "landscapes",
        ["job 1 (open)"][shell == "bash" :],
        "",
    )


@pytest.mark.parametrize("shell", DOCUMENTED)
def test_there_is_a_script_for_every_documented_shell(shell):
    found = offered(_IMAGEMILL_COMPLETE=f"{shell}_source")[1].stdout
    assert f"_IMAGEMILL_COMPLETE={shell}_complete" in found
    assert f"_IMAGEMILL_COMPLETE={shell}_source imagemill" in CLI_PAGE.read_text("utf-8")
