"""Log lines: one an event, whose, with nothing secret and nothing that passes for another line."""

import io
import json
import logging
import threading

import pytest

from imagemill.db.process.logs import (
    HumanFormatter,
    JsonFormatter,
    TerminalFormatter,
    configure_logging,
    log_fields,
    secrets_of,
)
from imagemill.db.settings import Settings

HOSTILE = "a cat\n2031-01-01 INFO    1 db: all is well\r\x1b[2J\u202egnp.\x07\0"


@pytest.fixture(params=[HumanFormatter, JsonFormatter])
def formatter(request: pytest.FixtureRequest):
    return request.param()


def lines(formatter: logging.Formatter, *calls) -> list[str]:
    """What a logger writes through a formatter."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.Logger("worker.test")
    logger.addHandler(handler)
    for call in calls:
        call(logger)
    return stream.getvalue().splitlines()


def test_who_typed_a_command_reads_no_time_and_no_module():
    written = lines(
        TerminalFormatter(),
        lambda logger: logger.warning("the broker is away\nnow"),
        lambda logger: logger.error("lost", exc_info=ValueError("why")),
    )
    assert written[0] == "warning: the broker is away\\nnow"
    assert "ERROR" in written[1], "a traceback has all that is known"
    assert "ValueError: why" in written[-1]


def test_an_event_is_one_printable_line(formatter):
    written = lines(
        formatter,
        lambda log: log.warning("said: %s", HOSTILE, extra={"job": HOSTILE}),
        lambda log: log.info("next"),
    )
    assert len(written) == 2
    assert all(line.isprintable() for line in written)
    assert "all is well" in written[0]


@pytest.mark.parametrize("written_by", [HumanFormatter, TerminalFormatter])
def test_a_line_end_at_the_end_of_a_message_is_not_shown(written_by: type[logging.Formatter]):
    (told,) = lines(written_by(), lambda log: log.error("trying again in 2 s\n"))
    assert told.endswith(": trying again in 2 s")


def test_json_keeps_what_was_said_exactly():
    (line,) = lines(JsonFormatter(), lambda log: log.error("said: %s", HOSTILE))
    document = json.loads(line)
    assert document["message"] == f"said: {HOSTILE}"
    assert (document["level"], document["logger"]) == ("ERROR", "worker.test")


def test_lines_say_whose_they_are(formatter):
    def work(log: logging.Logger) -> None:
        with log_fields(shift=3):
            with log_fields(job=1, image=5):
                log.info("inner")
            log.info("outer", extra={"job": 2})
        log.info("after")

    inner, outer, after = lines(formatter, work)
    if isinstance(formatter, JsonFormatter):
        assert {"shift": 3, "job": 1, "image": 5}.items() <= json.loads(inner).items()
        assert {"shift": 3, "job": 2}.items() <= json.loads(outer).items()
        assert "shift" not in json.loads(after)
    else:
        assert inner.endswith("inner (shift 3, job 1, image 5)")
        assert outer.endswith("outer (shift 3, job 2)")
        assert after.endswith("after")


def test_a_thread_s_fields_are_its_own():
    def work(log: logging.Logger) -> None:
        with log_fields(shift=3):
            other = threading.Thread(target=lambda: log.info("elsewhere"))
            other.start()
            other.join()

    (line,) = lines(HumanFormatter(), work)
    assert line.endswith("elsewhere")


def _raise(log: logging.Logger) -> None:
    try:
        int(HOSTILE)
    except ValueError:
        log.exception("it failed")


def test_an_exception_is_one_line_of_json():
    (line,) = lines(JsonFormatter(), _raise)
    assert "Traceback" in json.loads(line)["exception"]


def test_no_line_of_a_traceback_passes_for_an_event():
    first, *trace = lines(HumanFormatter(), _raise)
    assert first.endswith("it failed")
    assert trace
    assert all(line.startswith("    | ") and line.isprintable() for line in trace)


def test_secrets_are_written_by_no_formatter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", 'key"with\\quotes')
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "operator:flower-password")
    settings = Settings(
        database_url="postgresql://app:data%40base-pw@db/x",
        broker_url="redis://:broker-password@broker:6379/0",
    )
    secrets = secrets_of(settings)
    said = " ".join((*secrets, "operator"))
    for kind in (HumanFormatter, JsonFormatter):
        (line,) = lines(kind(secrets), lambda log: log.error("said: %s", said))
        assert "operator" in line
        for part in ("quotes", "abcdefgh", "flower-password", "base-pw", "broker-password"):
            assert part not in line


def test_every_broker_s_password_and_every_option_s_is_a_secret():
    settings = Settings(
        database_url="postgresql://app@db/x?sslpassword=option%2Dpassword",
        broker_url="redis://:first-password@a/0;sentinel://:second-password@b/0",
    )
    found = secrets_of(settings)
    assert {"first-password", "second-password", "option-password"} <= set(found)


def test_a_short_password_does_not_blank_the_log():
    settings = Settings(database_url="postgresql://app:app@db/x", broker_url="redis://h:1/0")
    assert secrets_of(settings) == ()


def test_the_settings_choose_format_and_level(capsys: pytest.CaptureFixture[str]):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging(Settings(log_format="json", log_level="WARNING"))
        logging.getLogger("imagemill.worker").info("unheard")
        logging.getLogger("imagemill.worker").warning("heard")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == [
        "heard"
    ]
