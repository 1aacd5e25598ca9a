"""One job through an upgrade: processes of the version before and of this one, side by side.

The version before is a commit of this repository, unpacked beside it; it knows an older schema. A
clone without its history can't tell. The migration runs in the middle, and then each kind of
process is replaced while the other one is still old.
"""

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from imagemill.db.database import Database
from imagemill.db.queries.audit import audit
from imagemill.db.schema import head
from tests.helpers.places import ROOT
from tests.integration.workers import Program, eventually

BEFORE = "62863c9456df"
"""The last commit before migration `0010`."""

IMAGES = 40
"""Half of them are rendered by the end of the upgrade; each takes 0.8 s."""


class Version:
    """A checkout whose programs work on the plant's database, broker and store.

    Programs of this checkout are forks of what has imported them.
    """

    def __init__(self, tree: Path, environment: dict[str, str], logs: Path) -> None:
        self._environment = dict(environment)
        if tree != ROOT:
            # Without the second, `-m` would look into the tests' own folder first.
            self._environment |= {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}
        self._logs = logs
        self._name = tree.name
        self.programs: list[Program] = []

    def run(self, *words: str) -> None:
        """Run a command, which must end well."""
        program = self.start("imagemill", *words)
        assert program.ends() == 0, program.said

    def start(self, module: str, *words: str) -> Program:
        log = self._logs / f"{self._name}-{module}-{len(self.programs)}.log"
        program = Program(module, *words, environment=self._environment, log=log)
        self.programs.append(program)
        return program

    def worker(self) -> Program:
        return self.start("tests.chaos.worker", "--children", "1")

    def dispatcher(self) -> Program:
        return self.start("imagemill", "dispatcher")


@pytest.fixture
def environment(postgres_url: str, broker_url: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "objects").mkdir()
    return {
        "IMAGEMILL_DATABASE_URL": postgres_url,
        "IMAGEMILL_BROKER_URL": broker_url,
        "IMAGEMILL_STORAGE_URL": str(tmp_path / "objects"),
        "IMAGEMILL_LEASE_SECONDS": "5",
        "IMAGEMILL_HEARTBEAT_SECONDS": "0.3",
        "IMAGEMILL_SHIFT_SECONDS": "5",
    }


@pytest.fixture
def before(environment: dict[str, str], tmp_path: Path) -> Iterator[Version]:
    archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"this clone has no commit {BEFORE}, the version before")
    (tmp_path / "before").mkdir()
    subprocess.run(["tar", "-x", "-C", tmp_path / "before"], input=archive.stdout, check=True)
    version = Version(tmp_path / "before", environment, tmp_path)
    yield version
    for program in version.programs:
        program.close()


@pytest.fixture
def now(environment: dict[str, str], tmp_path: Path) -> Iterator[Version]:
    version = Version(ROOT, environment, tmp_path)
    yield version
    for program in version.programs:
        program.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_goes_through_an_upgrade(
    before: Version, now: Version, postgres_url: str, tmp_path: Path
) -> None:
    before.run("migrate")
    database = Database(postgres_url)
    assert _schema(database) < head(), "it is not the version before"
    manifest = tmp_path / "job.csv"
    rows = "\n".join(f"slow {number},4" for number in range(IMAGES))
    manifest.write_text(f"prompt,steps\n{rows}\n")
    before.run("submit", str(manifest))
    first_dispatcher, first_worker = before.dispatcher(), before.worker()

    def done() -> int:
        with database.reading() as session:
            return int(session.scalar(text("SELECT count(*) FROM images WHERE state = 'done'")))

    def further(what: str) -> None:
        """Let some images be rendered, and pause the job while processes are replaced: a quick
        machine must not come to its end too soon."""
        seen = done()
        _set_state(database, "open")
        assert eventually(lambda: done() > seen), what + "\n" + _said(before, now)
        _set_state(database, "paused")
        assert done() < IMAGES, f"{what}: nothing is left to do; it is no test"

    further("old worker, old dispatcher")
    now.run("migrate")
    assert _schema(database) == head()
    further("old worker, old dispatcher, new schema")
    second_dispatcher = now.dispatcher()
    first_dispatcher.signal(signal.SIGTERM)
    assert first_dispatcher.ends() == 0
    further("old worker, new dispatcher")
    now.worker()
    third_dispatcher = before.dispatcher()  # as where one host is upgraded later than another
    for program in (second_dispatcher, first_worker):
        program.signal(signal.SIGTERM)
        assert program.ends() == 0, program.said
    further("new worker, old dispatcher")
    _set_state(database, "open")
    assert eventually(lambda: done() == IMAGES, 240), _said(before, now)
    assert eventually(lambda: _job_states(database) == ["finished"]), third_dispatcher.said

    with database.reading() as session:
        assert audit(session) == []
        query = "SELECT image_id, count(*) FROM attempts WHERE event = 'done' GROUP BY image_id"
        assert Counter(n for _, n in session.execute(text(query))) == {1: IMAGES}
        objects = session.execute(text("SELECT object_key, sha256 FROM objects")).all()
    assert len(objects) == len({key for key, _ in objects}) == IMAGES
    assert sum(1 for each in (tmp_path / "objects").rglob("*.png") if each.is_file()) == IMAGES
    assert "Traceback" not in _said(before, now)
    now.run("verify", "latest")
    database.close()


def _schema(database: Database) -> str:
    """The newest migration that the database has had."""
    with database.reading() as session:
        return str(session.scalar(text("SELECT version_num FROM alembic_version")))


def _set_state(database: Database, state: str) -> None:
    """As `pause` and `resume` do, whatever the schema."""
    with database.writing() as session:
        session.execute(text("UPDATE jobs SET state = :state"), {"state": state})


def _job_states(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(text("SELECT state FROM jobs")))


def _said(*versions: Version) -> str:
    return "\n".join(program.said for version in versions for program in version.programs)
