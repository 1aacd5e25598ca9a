"""A judge behind an endpoint: what it is asked, how answers are read, what is tried again."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from imagemill.db.errors import ModelError, ScoreError, ServiceError, UsageError
from imagemill.db.models.scorers import all_scorers
from imagemill.db.settings import Settings
from imagemill.worker.scores import Scorer
from imagemill.worker.scores.judge import Pace
from imagemill.worker.scores.shelf import ScorerShelf, checked
from tests.helpers.http.chat_server import ChatServer, chat_server

RECORD: Any = SimpleNamespace(prompt="a {red} circle", negative_prompt="blur")
PICTURE = Image.new("RGB", (64, 48), "red")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as found:
        yield found


def judge(server: ChatServer, folder: Path, **fields: Any) -> Scorer:
    values = {
        "kind": "judge",
        "url": server.url,
        "model": "seer",
        "question": "Is it {prompt}, without {negative_prompt}?",
        "retries": 2,
        **fields,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    registry = folder / "models.toml"
    registry.write_text("[scorers.vqa]\n" + "\n".join(lines))
    settings = Settings.load(models=registry)
    return ScorerShelf(all_scorers(settings), settings).find("vqa")


def test_it_asks_with_the_picture_and_counts_tokens_and_cost(
    server: ChatServer, tmp_path: Path
) -> None:
    scorer = judge(server, tmp_path, price_in=2.0, price_out=10.0)
    server.answers = ["I would say 8.5 of 10."]
    (scores,) = scorer.score([PICTURE], [RECORD])
    assert scores == {"vqa": 0.85, "vqa_tokens": 120.0, "vqa_cost": pytest.approx(0.0004)}
    (asked,) = server.requests
    assert asked == {
        "path": "/v1/chat/completions",
        "model": "seer",
        "text": "Is it a {red} circle, without blur?",
        "size": (64, 48),
    }


def test_captions_are_texts_in_the_order_of_the_pictures(
    server: ChatServer, tmp_path: Path
) -> None:
    scorer = judge(server, tmp_path, answer="text", parallel=1)
    server.answers = ["one", " two\n", ""]
    found = scorer.score([PICTURE] * 2, [RECORD] * 2)
    assert [scores["vqa"] for scores in found] == ["one", "two"]
    (nothing,) = scorer.score([PICTURE], [RECORD])
    assert str(nothing) == "it answered nothing"


def test_what_a_server_refuses_for_now_is_tried_again(server: ChatServer, tmp_path: Path) -> None:
    scorer = judge(server, tmp_path)
    server.answers = [429, 500, "3"]
    (scores,) = scorer.score([PICTURE], [RECORD])
    assert scores["vqa"] == 0.3
    server.answers = [503] * 3
    with pytest.raises(ServiceError):
        scorer.score([PICTURE], [RECORD])
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("answer", "said"), [(400, "status 400"), ("eleven", "it answered 'eleven', no number up to")]
)
def test_an_answer_that_is_none_is_one_picture_s_failure(
    server: ChatServer, tmp_path: Path, answer: str | int, said: str
) -> None:
    server.answers = [answer, "5"]
    failed, judged = judge(server, tmp_path, parallel=1).score([PICTURE] * 2, [RECORD] * 2)
    assert isinstance(failed, ScoreError)
    assert said in str(failed)
    assert judged["vqa"] == 0.5
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"<html>log in</html>",
        b"[]",
        b"5",
        b"{}",
        b'{"choices": 5}',
        b'{"choices": [5]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": [{"message": {"content": "\xff"}}]}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_answer_is_said_to_be_none(
    server: ChatServer, tmp_path: Path, body: bytes
) -> None:
    server.answers = [body]
    (failed,) = judge(server, tmp_path).score([PICTURE], [RECORD])
    assert isinstance(failed, ScoreError)
    assert str(failed).startswith(f"{server.url}: its answer is no chat completion")


def test_tokens_that_are_none_are_not_counted(server: ChatServer, tmp_path: Path) -> None:
    answer = b'{"choices": [{"message": {"content": "7"}}], "usage": %s}'
    for usage in (b"5", b'{"prompt_tokens": null, "completion_tokens": null}'):
        server.answers = [answer % usage]
        assert judge(server, tmp_path).score([PICTURE], [RECORD]) == [{"vqa": 0.7}]


def test_a_text_that_no_database_takes_is_made_one(server: ChatServer, tmp_path: Path) -> None:
    scorer = judge(server, tmp_path, answer="text")
    server.answers = [b'{"choices": [{"message": {"content": "a\\u0000 fox \\ud800"}}]}']
    found = scorer.score([PICTURE], [RECORD])
    assert checked(scorer, found, 1) == [{"vqa": "a fox ?"}]


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://"},
        {"url": "http://a b/v1"},
        {"url": "http://[::1"},
        {"url": "http://127.0.0.1:99999/v1"},
        {"model": ""},
        {"question": ""},
        {"key_variable": ""},
        {"most": 0},
        {"most": -1},
        {"retries": 1e9},
        {"timeout_seconds": 1e300},
    ],
)
def test_a_table_that_could_not_work_is_refused(
    server: ChatServer, tmp_path: Path, fields: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match=rf"scorers\.vqa\.{next(iter(fields))}:"):
        judge(server, tmp_path, **fields)


def test_a_wrong_key_ends_the_shift_at_once(server: ChatServer, tmp_path: Path) -> None:
    server.usual = 401
    with pytest.raises(ServiceError, match="refuses"):
        judge(server, tmp_path).score([PICTURE], [RECORD])
    assert len(server.requests) == 1


def test_a_server_that_is_away_is_a_service_error(server: ChatServer, tmp_path: Path) -> None:
    scorer = judge(server, tmp_path, url="http://me:secret@127.0.0.1:1/v1", retries=0)
    with pytest.raises(ServiceError, match="refused") as away:
        scorer.score([PICTURE], [RECORD])
    assert "secret" not in str(away.value)


def test_the_key_comes_from_the_environment(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="JUDGE_KEY is not set"):
        judge(server, tmp_path, key_variable="JUDGE_KEY")
    monkeypatch.setenv("JUDGE_KEY", "opensesame")
    judge(server, tmp_path, key_variable="JUDGE_KEY").score([PICTURE], [RECORD])
    assert server.keys == {"Bearer opensesame"}


def test_requests_begin_at_an_even_pace() -> None:
    pace = Pace(per_minute=60 / 0.05)
    started = time.monotonic()
    for _ in range(4):
        pace.wait()
    assert time.monotonic() - started >= 0.15
