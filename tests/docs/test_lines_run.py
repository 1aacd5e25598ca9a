"""The command lines of the documents are run, page by page, on one finished set of jobs.

What a line can't find here (a server, a GPU, the Hub) is named in `ELSEWHERE`, with the place of
its own test. Everything else ends with exit code 0, or with the one that `ENDS` says. It takes
some 15 s of CPU, because these are a hundred commands, each as a person would type it.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from openpyxl import Workbook

from imagemill.db.database import Database
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.cli import cli
from imagemill.scheduler_jobs.submit.options import SubmissionOptions
from imagemill.scheduler_jobs.submit.submission import check_and_submit
from tests.docs.command_lines import PAGES, CommandLine, in_blocks
from tests.docs.test_command_lines import command_of
from tests.helpers.mill import Mill
from tests.helpers.places import ROOT

pytest.importorskip("torch", reason="the jobs are rendered by a worker's shift")
from tests.helpers.workshop import Workshop

pytestmark = pytest.mark.commands

RUN = {
    *("cancel", "contact-sheet", "cost", "diff", "duplicates", "errors", "export", "exports"),
    *("images", "jobs", "keys", "keys add", "keys revoke", "label", "migrate", "models"),
    *(
        "models list",
        "note",
        "notifications",
        "notifications retry",
        "pause",
        "pick",
        "plan",
        "prune",
        "query",
        "report",
        "resume",
    ),
    *("retry", "rm", "samplers", "score", "show", "status", "sweep", "tag", "tokens", "untag"),
    *("verify", "watch", "workers"),
}
ELSEWHERE = {
    "run": "it renders with torch: tests/e2e/test_tutorial.py, test_run.py, test_examples.py",
    "submit": "it needs a broker: tests/e2e/test_production.py",
    "worker": "it needs a broker, and does not end: tests/e2e/test_production.py",
    "doctor": "it imports torch each time: tests/unit, cli/commands/operate/test_services.py",
    "import": "it needs an export of its own: tests/e2e/test_tutorial.py",
    "dispatcher": "it does not end: tests/integration",
    "flower": "it does not end: tests/e2e/test_flower_page.py",
    "serve": "it does not end: tests/integration/test_serve_kills.py",
    **dict.fromkeys(
        ("edit", "owners", "owners weigh", "workers pin", "workers unpin"),
        "it needs a live job or a worker: tests/unit/scheduler_jobs/cli",
    ),
    "gallery": "it does not end: tests/e2e/test_gallery_page.py",
    **dict.fromkeys(
        ("up", "join", "down", "ps", "logs", "env"),
        "they start servers: tests/e2e/test_up.py, test_join.py",
    ),
    **dict.fromkeys(
        ("reproduce", "certify", "roundtrip"),
        "they render with torch: tests/e2e/test_tutorial.py, test_examples.py",
    ),
    **dict.fromkeys(
        ("backup", "restore"), "they want places outside: tests/contract, tests/integration"
    ),
    "push": "it needs the Hub: tests/e2e/test_tutorial.py has a stand-in",
    "models add": "it needs the Hub: tests/models/test_add.py",
    "models pull": "it needs the Hub: tests/models/test_pull.py",
    "workers drain": "it needs a worker: tests/unit, cli/commands/operate/test_workers.py",
    "workers resume": "it needs a worker: tests/unit, cli/commands/operate/test_workers.py",
    "workers pin": "it needs a worker: tests/unit, cli/commands/operate/test_workers.py",
    "workers unpin": "it needs a worker: tests/unit, cli/commands/operate/test_workers.py",
    **dict.fromkeys(
        ("backup", "restore"), "their places are new: tests/contract/pictures/test_backups.py"
    ),
    "notifications test": "it needs a receiver: cli/commands/operate/test_notifications.py",
    "watermark": "it needs a marked picture: tests/contract/datasets/test_marks.py",
}
ABSENT = {
    "s3://": "a bucket",
    "--c2pa": "a certificate",
    "--watermark": "pictures of 128 pixels",
    "sdxl": "a model of the Hub",
}
"""What is not here, by a part of the line that asks for it."""

ENDS = {
    "plan bad.csv": 2,
    "show 1234": 2,
    "cancel latest": 2,  # it is finished
    "pause latest": 2,
    "resume latest": 2,
    "cost latest --prices H200=3.5,cpu=0.05": 2,  # its device here is called "fake"
    "diff 12 13": 1,
    "diff before after --sheet apart.png": 1,
    "diff prompts coarse --sheet apart.png": 1,
}
JOBS = ("prompts", "coarse", "before", "after", *(f"more-{number}" for number in range(5, 13)))
GRID = ("sampler=ddim,euler", "guidance_scale=3,5", "steps=2,20")
SCORERS = "phash,sharpness,blank,shapes64"
MANIFESTS = {
    "prompts.csv": "prompt\na red circle\n",
    "prompts.txt": "a red circle\n",
    "table.csv": "prompt,seed,steps,note\na green star,7,10,first\n",
    "bad.csv": "prompt,steps\na red ring,many\n",
    "data.csv": "title,width\na red circle,old\n",
    "prompts/one.csv": "prompt\na red circle\n",
    "dpg_bench/prompts/1.txt": "a red circle",
    "out/.keep": "",
}


def _runnable(line: CommandLine) -> bool:
    context, _, _ = command_of(line)
    name = context.command_path.partition(" ")[2]
    return name in RUN and not any(part in str(line) for part in ABSENT)


LINES = {
    str(page.relative_to(ROOT)): found
    for page in PAGES
    if (found := list(filter(_runnable, in_blocks(page))))
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as `imagemill run --out` leaves it: thirteen finished jobs, the last one a grid."""
    home = tmp_path_factory.mktemp("finished") / "home"
    home.mkdir()
    settings = Settings.for_home(home, broker_url="redis://127.0.0.1:1/0")
    database = Database.from_settings(settings)
    migrate(database)
    mill = Mill(database)
    prompt = "a red circle on a blue background"
    for seed, name in enumerate(JOBS):  # the same rows would be the same job
        steps = 3 if name in {"coarse", "after"} else 2
        rows = [{"prompt": prompt, "id": "p1", "steps": steps, "seed": seed}]
        _submit(home, database, settings, name, rows)
    rows = [{"prompt": prompt, "id": "p003", "mood": "calm"}, {"prompt": prompt, "id": "star"}]
    _submit(home, database, settings, "grid", rows, grid=GRID)
    workshop = Workshop(mill, home / "unused")
    workshop.storage = FolderStorage(home / "objects")
    while any(mill.counts(job_id).pending for job_id in range(1, len(JOBS) + 2)):
        workshop.shift()
    mill.finish_jobs()
    database.close()
    # Once for all pages: a pass starts processes of its own.
    scored = ["score", *JOBS, "grid", "--with", SCORERS, "--here"]
    # `--home` sets variables, and only those that a test itself sets are taken back after it.
    with patch.dict(os.environ):
        done = CliRunner().invoke(cli, ["--home", str(home), *scored])
    assert done.exit_code == 0, done.output
    yield home
    shutil.rmtree(home)


def _submit(
    home: Path,
    database: Database,
    settings: Settings,
    name: str,
    rows: list[dict[str, Any]],
    *,
    grid: tuple[str, ...] = (),
) -> None:
    file = home / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = SubmissionOptions(manifests=(str(file),), grid=grid, parameters={"samples": 2})
    check_and_submit(asked.request(settings), settings=settings, database=database)


@pytest.fixture
def home(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished folder, beside the manifests that the pages name."""
    home = tmp_path / "home"
    shutil.copytree(finished, home)
    for name, text in MANIFESTS.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    book = Workbook()
    book.active.append(["prompt"])
    book.active.append(["a red circle"])
    book.save(tmp_path / "more.xlsx")
    monkeypatch.chdir(tmp_path)
    return home


@pytest.mark.parametrize("page", LINES)
def test_the_lines_of_a_page_run(page: str, home: Path) -> None:
    ended = {}
    for line in LINES[page]:
        words = list(line.words)
        asked = home
        if words[0] == "--home":
            asked = home.with_name("other") if words[1] == "other" else home
            del words[:2]
        if "--to" in words:  # pages show several exports to one place
            shutil.rmtree(words[words.index("--to") + 1], ignore_errors=True)
        done = CliRunner().invoke(cli, ["--home", str(asked), *words])
        ended[" ".join(words)] = (done.exit_code, done.output[-300:])
    wrong = {line: end for line, end in ended.items() if end[0] != ENDS.get(line, 0)}
    assert wrong == {}


def test_every_command_is_run_or_said_to_be_elsewhere() -> None:
    assert sum(map(len, LINES.values())) > 60
    lines = [line for page in PAGES for line in in_blocks(page)]
    named = {command_of(line)[0].command_path.partition(" ")[2] for line in lines}
    assert named - RUN - set(ELSEWHERE) - {""} == set(), "add each to RUN, or to ELSEWHERE"
