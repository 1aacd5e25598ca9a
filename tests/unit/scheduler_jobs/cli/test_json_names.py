"""`--json` of every command: one object last, and one name for one thing in all of them."""

import ast
import json
import os
import shutil
import subprocess

import pytest

from imagemill.db.broker import wake_ups
from imagemill.db.database import Database
from imagemill.db.given_settings import DATABASE_FILE
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.cli.command_table import COMMANDS
from imagemill.scheduler_jobs.cli.commands.operate import checks
from imagemill.scheduler_jobs.local.ports import free_ports
from tests.helpers.mill import REFUSED, Mill
from tests.helpers.places import ROOT
from tests.helpers.pretended import Broker
from tests.helpers.template import copy_of_template

SHORT = {"id", "row", "key", "number", "sample"}
"""Names that say too little beside others: JSON says `job_id`, `row_number`, `row_key`, …"""

OBJECTS = {"job", "image"}
"""Names of whole things: under them stands an object, never an id."""

MANIFEST = "prompt\na red circle\n"

HERE = {
    "plan": ["MANIFEST"],
    "submit": ["MANIFEST"],
    "run": ["MANIFEST", "--out", "OUT"],
    "query": ["SELECT 1 AS one"],
    "status": ["latest"],
    "watch": ["done"],
    "jobs": [],
    "images": ["latest"],
    "show": ["1"],
    "errors": ["latest"],
    "contact-sheet": ["latest", "-o", "OUT.png"],
    "report": ["latest", "-o", "OUT.html"],
    "retry": ["latest"],
    "pause": ["open"],
    "resume": ["open"],
    "cancel": ["open"],
    "label": ["open", "team=faces"],
    "note": ["open", "a note"],
    "diff": ["done", "open"],
    "rm": ["done"],
    "prune": ["--older-than", "0s"],
    "verify": ["done"],
    "sweep": [],
    "models": [],
    "workers": [],
    "keys": [],
    "keys add": ["alice"],
    "cost": ["done"],
    "workers drain": ["w@host"],
    "workers resume": ["w@host"],
    "notifications": [],
    "notifications retry": ["--failed"],
    "samplers": [],
    "tokens": ["a red circle"],
    "dispatcher": ["--once"],
    "flower": ["--port", "PORT"],
    "migrate": [],
    "doctor": [],
}
"""Every command of the control side, with arguments that make it answer."""

READ = sorted({COMMANDS[name].target.partition(":")[0] for name in set(COMMANDS) - set(HERE)})
"""The modules of all other commands (most need torch): the names in their code are read instead."""


def names(value, path=""):
    """Every name in a document, with what stands under it."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield f"{path}.{name}", name, below
            yield from names(below, f"{path}.{name}")
    elif isinstance(value, list):
        for below in value:
            yield from names(below, f"{path}[]")


def wrong(name, below) -> bool:
    return name in SHORT or (name in OBJECTS and below is not None and not isinstance(below, dict))


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """A folder with work done, dead and waiting: made once, each test has a copy."""
    folder = tmp_path_factory.mktemp("worked") / "home"
    (folder / "objects").mkdir(parents=True)
    copy_of_template(folder / DATABASE_FILE)
    database = Database.from_settings(Settings.for_home(folder))
    mill = Mill(database)
    mill.load("done", ["a circle"])
    mill.load("open", ["a ring"])
    mill.load("mixed", ["a square", "a star"])
    shift = mill.shift()
    # Equal jobs share a claim by lot, so the order of what is claimed says nothing.
    first, _, dead, _ = sorted(mill.claim(shift, limit=4), key=lambda image: image.id)
    mill.complete(shift, [first])
    mill.begin(shift, [dead.id])
    mill.fail(shift, dead.id, REFUSED)
    mill.end(shift)
    database.close()
    return folder


@pytest.fixture
def home(worked, tmp_path):
    """In the place of an empty one."""
    return shutil.copytree(worked, tmp_path / "home")


@pytest.fixture
def answers(at_home, tmp_path, monkeypatch, pretended_run):
    """Calls a command with `--json` in a folder with work done, dead and waiting."""
    pretended_run()
    monkeypatch.setattr(wake_ups, "Tokens", Broker)
    monkeypatch.setattr(os, "execve", lambda *arguments: None)
    quick = subprocess.CompletedProcess([], 0, "cpu, fp32\n", "")
    monkeypatch.setattr(checks.subprocess, "run", lambda *args, **kwargs: quick)
    manifest = tmp_path / "m.csv"
    manifest.write_text(MANIFEST)

    def call(name: str):
        words = {
            "MANIFEST": manifest,
            "OUT": tmp_path / "out",
            "OUT.png": tmp_path / "o.png",
            "OUT.html": tmp_path / "o.html",
            "PORT": free_ports(1)[0],
        }
        arguments = [words.get(word, word) for word in HERE[name]]
        answer = at_home(*name.split(" "), *arguments, "--json")
        last = answer.out.splitlines()[-1]
        return answer, json.loads(last)

    return call


@pytest.mark.parametrize("name", HERE)
def test_a_command_uses_the_names_of_all_others(answers, name):
    answer, document = answers(name)
    assert "error" not in document, answer.err
    assert [path for path, short, below in names(document) if wrong(short, below)] == []


@pytest.mark.parametrize("module", [*READ, "imagemill.worker.cli.reproduce"])
def test_the_commands_of_the_gpu_side_use_them_too(module: str):
    code = (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8")
    keys = {
        key.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    assert keys & (SHORT | OBJECTS) == set()


def test_the_walk_sees_a_name_that_is_too_short():
    found = [
        path for path, name, below in names({"jobs": [{"id": 1, "job": 2}]}) if wrong(name, below)
    ]
    assert found == [".jobs[].id", ".jobs[].job"]


def test_errors_name_rows_as_answers_do(at_home, tmp_path):
    manifest = tmp_path / "bad.csv"
    manifest.write_text("prompt,steps\na circle,many\n")
    [problem] = at_home("submit", manifest, "--json").json["error"]["problems"]
    assert (problem["row_number"], problem["column"]) == (1, "steps")
