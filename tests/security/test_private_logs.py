"""Prompts in logs at debug only, secrets never: what the processes of a real run write."""

import io
import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError

from imagemill.db.database import Database
from imagemill.db.process.logs import HumanFormatter
from imagemill.db.prompt_weights import parse_weights
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.db.tables import Image
from imagemill.scheduler_jobs.cli.exit_codes import report
from imagemill.worker.models.library_logs import take_over_library_logs
from tests.e2e.commands import imagemill
from tests.helpers.mill import Mill

PROMPT = "zebrafinch"
NEGATIVE = "quokka"
COLUMN = "wombat"
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "s3-secret-hunter2",
    "AWS_SESSION_TOKEN": "session-hunter2",
    "HF_TOKEN": "hf_hunter2hunter2",
    "IMAGEMILL_FLOWER_BASIC_AUTH": "operator:flower-hunter2",
}
LIBRARIES = ("diffusers", "transformers")
ROWS = (
    {"prompt": f"{PROMPT}, a red circle", "negative_prompt": NEGATIVE, "id": COLUMN},
    {"prompt": f"{PROMPT} " * 40, "note": COLUMN},
    {"prompt": f"{PROMPT}, a square", "adapters": "broken"},
)


@pytest.mark.parametrize(("level", "format"), [("INFO", "human"), ("DEBUG", "json")])
def test_what_a_real_run_logs(level: str, format: str, tmp_path: Path) -> None:
    """What is written at WARNING or ERROR is written at INFO too: two levels say it for all."""
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps({"steps": 2, **row}) + "\n" for row in ROWS))
    variables = {"IMAGEMILL_LOG_LEVEL": level, "IMAGEMILL_LOG_FORMAT": format}
    save_file({"no.such.lora_A.weight": np.zeros(1, np.float32)}, tmp_path / "broken.safetensors")
    (tmp_path / "models.toml").write_text('[adapters]\nbroken = "broken.safetensors"\n')
    variables |= {"IMAGEMILL_CHILDREN": "1", "IMAGEMILL_MODELS": str(tmp_path / "models.toml")}
    variables |= SECRETS
    out = tmp_path / "out"
    verbose = ["--verbose"] if level == "DEBUG" else []
    done = imagemill(*verbose, "run", manifest, "--out", out, environment=variables, code=1)
    log = (out / "worker.log").read_text("utf-8")
    assert "image 3 failed" in log
    everything = done.stdout + done.stderr + log
    assert "hunter2" not in everything
    assert broker_password(out) not in everything
    if level != "DEBUG":
        assert [word for word in (PROMPT, NEGATIVE, COLUMN) if word in everything] == []
    if format == "json":
        events = [line for line in log.splitlines() if line and "Warm shutdown" not in line]
        assert all({"time", "level", "message"} <= json.loads(line).keys() for line in events)


def broker_password(out: Path) -> str:
    """What the run's own Valkey asks for."""
    (config,) = out.rglob("valkey.conf")
    (line,) = [x for x in config.read_text().splitlines() if x.startswith("requirepass")]
    return line.split()[1]


def test_what_is_wrong_with_a_prompt_is_said_without_it() -> None:
    with pytest.raises(Exception, match="no number") as caught:
        parse_weights(f"({PROMPT}:1.2.3)")
    assert PROMPT not in str(caught.value)


@pytest.fixture
def our_log() -> Iterator[io.StringIO]:
    """What our own handler writes; the libraries' loggers are put back afterwards."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(HumanFormatter())
    logging.getLogger().addHandler(handler)
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    yield stream
    logging.getLogger().removeHandler(handler)
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR"])
def test_libraries_quote_prompts_at_debug_only_and_in_our_lines(
    level: str, our_log: io.StringIO
) -> None:
    """diffusers warns of what a text encoder cut off, and quotes it."""
    take_over_library_logs(Settings.load(log_level=level))
    for name in ("diffusers.pipelines.flux.pipeline_flux", "transformers.tokenization_utils"):
        logging.getLogger(name).warning("truncated: %s", [f"{PROMPT}\n\x1b[31m\u202e"])
        logging.getLogger(name).error("%s: it is broken", name)
    handlers = [each for name in LIBRARIES for each in logging.getLogger(name).handlers]
    assert [each for each in handlers if not type(each).__module__.startswith("_pytest")] == []
    written = our_log.getvalue().splitlines()
    assert sum(PROMPT in line for line in written) == (2 if level == "DEBUG" else 0)
    assert sum("it is broken" in line for line in written) == 2
    assert all(
        line.isprintable() and (" ERROR " in line or " WARNING " in line) for line in written
    )


def _everything_said(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    """An error as a traceback shows it, as a command ends with it, and as JSON."""
    report(error, as_json=True)
    shown = capsys.readouterr()
    return "".join(traceback.format_exception(error)) + repr(error) + shown.out + shown.err


def test_postgres_quotes_no_row_in_an_error(
    postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server adds `DETAIL: Failing row contains (…)`: the whole row, with its prompt."""
    database = Database(postgres_url)
    migrate(database)
    Mill(database).load("job", [PROMPT])
    broken = update(Image).values(state="done")
    quoted = text("SELECT CAST(CAST(:prompt AS text) AS integer)")
    for statement, values in ((broken, None), (quoted, {"prompt": f'{PROMPT} "x"\n{PROMPT}'})):
        with pytest.raises(DBAPIError) as caught, database.writing() as session:
            session.execute(statement, values)
        said = _everything_said(caught.value, capsys)
        assert "violates check constraint" in said or "invalid input syntax" in said
        assert PROMPT not in said
    database.close()
