"""Every command in ordinary trouble: one clear line and its exit code, never a bug of ours.

All commands of all troubles run in one process (`troubled`): a fork that has its imports already.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from imagemill.db.database import Database
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.cli.command_table import COMMANDS
from tests.helpers.machine.disks import fill, small_disk
from tests.helpers.mill import Mill
from tests.helpers.processes import forks
from tests.helpers.template import migrate_quickly

pytestmark = pytest.mark.commands

ROOT = Path(__file__).parents[4]
LONG = "n" * 300

SHEET = "contact-sheet job -o {here}/sheet.png"
REPORT = "report job -o {here}/report.html"
READERS = (
    *(
        "status",
        "status job",
        "workers",
        "keys",
        "owners",
        "cost job",
        "watch job",
        "jobs",
        "images job",
        "show 1",
        "errors job",
        SHEET,
    ),
    *(REPORT, "query SELECT/**/state/**/FROM/**/jobs"),
    *("exports", "plan {here}/m.csv"),
    "diff job job --quick",
    "notifications",
)
OTHERS = (
    *("verify job", "sweep", "retry job", "pause job", "resume job", "cancel job"),
    *("submit {here}/m.csv", "migrate", "dispatcher --once", "verify job --requeue"),
    *("label job team=a", "note job text", "rm job --yes", "prune --older-than 1d --yes"),
    *("import {here}/no-set", "backup {here}/no-folder/copy", "restore {here}/no-backup"),
    *("sweep --delete", "export job --format flat --to {here}/set", "push 1 me/set"),
    *("score job --with blank", "tag job keep", "untag job keep"),
    *("pick job --by steps", "duplicates job"),
    *("workers drain w@host", "workers resume w@host"),
    *("workers pin w@host job", "workers unpin w@host", "edit job --priority 1"),
    *("keys add alice", "keys revoke bob"),
    "owners weigh anna 3",
    "notifications retry --failed",
)
"""What needs more than reading the database: the store, or to write."""

READABLE = {"read-only folder", "read-only file", "a file for the store"}
"""Where the database is in order, and whatever only reads it works."""

NOT_MADE = {"missing", "missing parent"}

RENDERERS = {
    "run {here}/m.csv": NOT_MADE | {"an empty file"},
    "worker": set(),
    "reproduce --job job": READABLE,
}
"""What renders, with the troubles that are none for it: there it would go to work."""

NOT_HERE = {
    "doctor": "commands/test_services.py: what it finds is its answer",
    **dict.fromkeys(
        ("up", "join", "down", "ps", "logs", "env"),
        "its home is another: tests/unit/scheduler_jobs/stack/test_stack_commands.py",
    ),
    "flower": "it opens neither; its port is tried below",
    "gallery": "it never ends",
    "serve": "it never ends; commands/test_keys.py has what it refuses",
    "notifications test": "it reads no home; commands/test_notifications.py has its troubles",
    "samplers": "it reads nothing",
    "watermark": "it reads no home; test_marks.py has its troubles",
    "tokens": "it reads no home",
    "models": "it reads no home",
    "models add": "its troubles are tried in tests/models/test_add.py",
    "models list": "it reads no home",
    "models pull": "its places are tried in tests/models/test_pull.py",
    "certify": "its file is tried below",
    "roundtrip": "its file is tried below",
}


def _no_permission(home: Path) -> Path:
    for path in home.iterdir():
        path.chmod(0)
    return home


def _no_permission_for_the_folder(home: Path) -> Path:
    home.chmod(0)
    return home


def _a_folder_for_the_database(home: Path) -> Path:
    (home / "imagemill.sqlite3").unlink()
    (home / "imagemill.sqlite3").mkdir()
    return home


def _no_database(home: Path) -> Path:
    (home / "imagemill.sqlite3").write_bytes(b"this is no database at all" * 100)
    return home


def _an_empty_file(home: Path) -> Path:
    (home / "imagemill.sqlite3").write_bytes(b"")
    return home


def _a_file_for_the_store(home: Path) -> Path:
    (home / "objects").rmdir()
    (home / "objects").write_text("a file")
    return home


def _a_read_only_folder(home: Path) -> Path:
    (home / "imagemill.sqlite3").chmod(0o444)
    home.chmod(0o555)
    return home


def _a_read_only_file(home: Path) -> Path:
    (home / "imagemill.sqlite3").chmod(0o444)
    return home


TROUBLES: Mapping[str, Callable[[Path], Path]] = {
    "no permission": _no_permission,
    "no permission for the folder": _no_permission_for_the_folder,
    "a long name": lambda home: home / LONG,
    "a file for the folder": lambda home: home / "imagemill.sqlite3",
    "a file above the folder": lambda home: home / "imagemill.sqlite3" / "below",
    "a folder for the database": _a_folder_for_the_database,
    "no database": _no_database,
    "missing": lambda home: home / "there",
    "missing parent": lambda home: home / "not" / "there",
    "an empty file": _an_empty_file,
    "a file for the store": _a_file_for_the_store,
    "read-only folder": _a_read_only_folder,
    "read-only file": _a_read_only_file,
}
Told = Mapping[tuple[str, str], tuple[int, str]]


def finished(home: Path) -> None:
    """Leave a folder as a finished run does: one image done, one cancelled."""
    (home / "objects").mkdir(parents=True)
    database = Database.from_settings(Settings.for_home(home))
    migrate_quickly(database)
    mill = Mill(database)
    job = mill.load("job", ["a", "b"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=1))
    mill.cancel(job)
    mill.end(shift)
    database.close()


def answers(
    commands: Sequence[Sequence[str]], **trouble: object
) -> Iterator[tuple[Sequence[str], int, str]]:
    """Each command, how it ended, and what it said on standard error; none is a bug."""
    document = json.dumps({"commands": commands, **trouble})
    code = f"from tests.unit.scheduler_jobs.cli.troubled import main; main({document!r})"
    with tempfile.TemporaryDirectory(prefix="imagemill-said-") as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        status = forks.start(
            "-c", code, environment=os.environ, output=output, errors=errors, folder=ROOT
        ).wait(600)
        assert status == 0, errors.read_text()
        said = json.loads(output.read_text())
    for words, (code, out, err) in zip(commands, said, strict=True):
        name = " ".join(words)
        assert code != 70, f"{name}: {err}"
        assert "bug" not in err, f"{name}: {err}"
        assert "Traceback" not in out + err, f"{name}: {err}"
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) == (code in {2, 3}), f"{name}: code {code}, {err}"
        yield words, code, err


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("trouble")
    (folder / "m.csv").write_text("prompt\na red circle\n")
    yield folder
    for path in (*folder.glob("*"), *folder.glob("*/*")):
        path.chmod(0o755)


@pytest.fixture(scope="module")
def told(here: Path) -> Told:
    """What every command said in every trouble, by the names of both."""
    asked: dict[tuple[str, str], list[str]] = {}
    for trouble, make in TROUBLES.items():
        folder = here / trouble.replace(" ", "-")
        finished(folder)
        home = make(folder)
        for command in (*READERS, *OTHERS):
            if trouble in NOT_MADE and command in {"migrate", "dispatcher --once"}:
                continue  # `migrate` makes it
            words = [word.replace("{here}", str(here)) for word in command.split()]
            asked[trouble, command] = ["--home", str(home), *words]
    found = answers(list(asked.values()), powerless=True)
    return {key: (code, err) for key, (_, code, err) in zip(asked, found, strict=True)}


def test_no_command_is_forgotten() -> None:
    words = [command.split() for command in (*READERS, *OTHERS, *RENDERERS)]
    # A command below another has two words.
    pairs = {" ".join(each[:2]) for each in words} & set(COMMANDS)
    tried = pairs | {each[0] for each in words if " ".join(each[:2]) not in pairs}
    assert tried | set(NOT_HERE) == set(COMMANDS)
    assert not tried & set(NOT_HERE)


@pytest.mark.parametrize("trouble", sorted(set(TROUBLES) - READABLE))
def test_a_home_that_cannot_be_used(trouble: str, told: Told) -> None:
    """Every command that needs the database says so; `plan` may go on without one."""
    for (which, command), (code, err) in told.items():
        if which == trouble and not command.startswith("plan "):
            mended = trouble == "an empty file" and command in {"dispatcher --once", "migrate"}
            # After `migrate` the empty file is a database without the job.
            later = trouble == "an empty file" and command.startswith(
                ("sweep", "prune", "keys add", "notifications retry", "owners weigh")
            )
            assert code in {2, 3} or mended or later, f"{command}: code {code}, {err}"


@pytest.mark.parametrize("trouble", sorted(READABLE))
def test_a_finished_folder_can_be_read(trouble: str, told: Told) -> None:
    for command in READERS:
        code, err = told[trouble, command]
        # `watch` ends with 1 because the job was cancelled.
        assert code == (1 if command == "watch job" else 0), f"{command}: {err}"


def test_what_renders_ends_before_it_starts(here: Path) -> None:
    if find_spec("torch") is None:
        pytest.skip("the GPU side is not here")
    asked = []
    for trouble, make in TROUBLES.items():
        folder = here / f"render-{trouble.replace(' ', '-')}"
        finished(folder)
        home = make(folder)
        for command, none in RENDERERS.items():
            if trouble not in none:
                words = command.format(here=here).split()
                asked.append((trouble, ["--home", str(home), *words]))
    found = answers([words for _, words in asked], powerless=True)
    for (trouble, words), (_, code, err) in zip(asked, found, strict=True):
        assert code in {2, 3}, f"{trouble}: {words}: code {code}, {err}"


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "imagemill", "flower", "--port", port],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: 127.0.0.1:{port}: Address already in use; --address and --port name another"
    ]


@pytest.mark.parametrize("command", ["pause job", "submit {here}/m.csv", "dispatcher --once"])
def test_a_read_only_folder_says_that_it_can_only_be_read(command: str, told: Told) -> None:
    code, err = told["read-only folder", command]
    assert code == 3
    assert "it can only be read here" in err


@pytest.mark.usefixtures("told")
def test_nothing_is_made_beside(here: Path) -> None:
    assert (here / "sheet.png").is_file()
    for name in ("missing", "missing-parent", "read-only-folder", "read-only-file"):
        found = {path.name for path in (here / name).iterdir()}
        assert found <= {"imagemill.sqlite3", "objects"}, name


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A file may not grow: as a full disk, for whoever writes."""
    ((_, code, err),) = answers([["--home", str(tmp_path / "new"), "migrate"]], most_bytes=4096)
    assert code == 3, err


def test_a_full_disk_leaves_what_an_earlier_command_wrote(tmp_path: Path) -> None:
    finished(tmp_path / "home")
    files = [tmp_path / "report.html", tmp_path / "answer.csv"]
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n WHERE i < 20000)"
    commands = [
        ["--home", str(tmp_path / "home"), *words, "-o", str(file)]
        for words, file in zip(
            (["report", "job"], ["query", f"{many} SELECT i FROM n"]), files, strict=True
        )
    ]
    assert [code for _, code, _ in answers(commands)] == [0, 0]
    before = [file.read_bytes() for file in files]
    for (words, code, err), file in zip(answers(commands, most_bytes=40_000), files, strict=True):
        assert code == 3, f"{words}: {err}"
        assert f"{file}: can't be written: File too large" in err
    assert [file.read_bytes() for file in files] == before
    assert {path.name for path in tmp_path.iterdir()} == {"home", *(file.name for file in files)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    with small_disk(tmp_path / "disk", megabytes=2) as place:
        yield place


@pytest.mark.parametrize("leave", [0, 1 << 16])
def test_a_disk_without_room(tmp_path: Path, disk: Path, leave: int) -> None:
    finished(tmp_path / "home")
    finished(disk / "home")
    (tmp_path / "m.csv").write_text("prompt\n" + "a red circle\n" * 400)
    there, manifest = ["--home", str(disk / "home")], str(tmp_path / "m.csv")
    commands = [
        ["--home", str(disk / "new"), "migrate"],
        ["run", manifest, "--out", str(disk / "out")],
        [*there, "submit", manifest],
    ]
    fill(disk, leave=leave)
    if leave == 0:
        here = ["--home", str(tmp_path / "home")]
        commands += [
            [*here, "contact-sheet", "job", "--output", str(disk / "sheet.png")],
            [*here, "export", "job", "--format", "flat", "--to", str(disk / "set")],
            [*there, "status"],
        ]
    # Long enough to try several times: what is full may have room again.
    for words, code, err in answers(commands, patience=3):
        assert code == 3, f"{words}: {err}"
        assert "full" in err or "No space left" in err, f"{words}: {err}"


@pytest.mark.parametrize(("unbuffered", "flags"), [("", ("--json",)), ("1", ())])
def test_output_that_nobody_can_take(tmp_path: Path, unbuffered: str, flags: Sequence[str]) -> None:
    finished(tmp_path / "home")
    home = ["--home", str(tmp_path / "home")]
    for command in (["jobs"], ["samplers"]):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                [sys.executable, "-m", "imagemill", *home, *command, *flags],
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == 3
        assert done.stderr.splitlines() == ["error: No space left on device"]


def test_a_file_that_cannot_be_written_is_found_out_before_the_work(tmp_path: Path) -> None:
    finished(tmp_path / "home")
    picture = tmp_path / "home" / "imagemill.sqlite3"
    gpu_side = (["certify"], ["roundtrip", str(picture)]) if find_spec("torch") else ()
    writers = (["contact-sheet", "job"], ["report", "job"], *gpu_side)
    commands = [
        ["--home", str(tmp_path / "home"), *command, "--output", f"{place}{suffix}"]
        for command in writers
        for suffix in (".html" if "report" in command else ".png",)
        for place in (tmp_path / "none" / "x", tmp_path / LONG, picture / "x")
    ]
    for words, code, err in answers(commands):
        assert code == 2, words
        assert "can't be written" in err, words


def test_a_job_s_name_is_as_long_as_its_column(tmp_path: Path) -> None:
    finished(tmp_path / "home")
    long_file = tmp_path / ("n" * 240 + ".csv")
    long_file.write_text("prompt\na\n")
    submit = ["--home", str(tmp_path / "home"), "submit", str(long_file)]
    (given, taken) = answers([[*submit, "--name", LONG], submit])
    assert (given[1], taken[1]) == (2, 0)
