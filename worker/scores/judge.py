"""A scorer that asks a vision-language model behind any OpenAI-compatible endpoint.

The package `openai` (the extra `judge`) speaks the protocol and tries again, with growing pauses,
what a server refuses for now.
"""

import base64
import io
import os
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import openai
from PIL.Image import Image

from imagemill.db.errors import ScoreError, ServiceError, first_line
from imagemill.db.models.scorer_tables import JudgeTable
from imagemill.db.scorers import ScorerEntry
from imagemill.db.settings import Settings
from imagemill.worker.scores import ScoredImage, Scores

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_CREDENTIALS = re.compile(r"//[^/@]*@")
_MILLION = 1_000_000

_NO_COMPLETION = "its answer is no chat completion; does url name an OpenAI-compatible endpoint?"

_AWAY = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError)
_REFUSED = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)


class Judge:
    """Asks one question about each picture, `parallel` at a time, at most so many a minute.

    Beside the answer it gives the tokens of request and answer together, and their cost.
    """

    def __init__(self, entry: ScorerEntry, settings: Settings) -> None:
        del settings
        assert isinstance(entry.options, JudgeTable)
        table = self._table = entry.options
        self._name = entry.name
        self.yields = (entry.name, f"{entry.name}_tokens", f"{entry.name}_cost")
        self.batch = table.parallel
        key = None if table.key_variable is None else os.environ.get(table.key_variable)
        if table.key_variable is not None and not key:
            raise ScoreError(f"the environment variable {table.key_variable} is not set")
        self._client = openai.OpenAI(
            base_url=table.url,
            api_key=key or "none",
            timeout=table.timeout_seconds,
            max_retries=table.retries,
        )
        self._pace = Pace(table.requests_per_minute)
        self._place = _CREDENTIALS.sub("//", table.url)

    def score(
        self, pictures: Sequence[Image], records: Sequence[ScoredImage]
    ) -> Sequence[Scores | Exception]:
        """A share of `most` from 0 to 1, or the answer as a text.

        An answer that is none is its own picture's failure: no other is paid for again.
        """
        with ThreadPoolExecutor(self._table.parallel) as threads:
            return list(threads.map(self._asked, pictures, records))

    def _asked(self, picture: Image, record: ScoredImage) -> Scores | ScoreError:
        try:
            return self._ask(picture, record)
        except ScoreError as error:
            return error

    def _ask(self, picture: Image, record: ScoredImage) -> Scores:
        table = self._table
        question = table.question.replace("{negative_prompt}", record.negative_prompt)
        self._pace.wait()
        try:
            said = self._client.chat.completions.create(
                model=table.model,
                max_tokens=table.max_tokens,
                temperature=0,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": question.replace("{prompt}", record.prompt)},
                            {"type": "image_url", "image_url": {"url": _data_url(picture)}},
                        ],
                    }
                ],
            )
        except _AWAY as error:
            raise ServiceError(f"{self._place}: {_reason(error)}") from error
        except _REFUSED as error:
            # Nothing would be different for the next picture.
            raise ServiceError(f"{self._place} refuses: {first_line(error)}") from error
        except openai.APIStatusError as error:
            raise ScoreError(f"{self._place}: {first_line(error)}") from error
        except (ValueError, RecursionError) as error:  # a body that is no JSON
            raise ScoreError(f"{self._place}: {_NO_COMPLETION}") from error
        return {self._name: self._answer(self._text(said)), **self._price(said.usage)}

    def _text(self, said: object) -> str:
        """The text of an answer. The client takes any JSON, and a page of HTML, for an answer."""
        choices = getattr(said, "choices", None)
        first = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(first, "message", None)
        content = getattr(message, "content", None)
        if message is None or not (content is None or isinstance(content, str)):
            raise ScoreError(f"{self._place}: {_NO_COMPLETION}")
        return (content or "").strip()

    def _answer(self, text: str) -> float | str:
        if self._table.answer == "text":
            if not text:
                raise ScoreError("it answered nothing")
            return text
        found = _NUMBER.search(text)
        value = None if found is None else float(found[0]) / self._table.most
        if value is None or not 0 <= value <= 1:
            raise ScoreError(f"it answered {text[:80]!r}, no number up to {self._table.most:g}")
        return value

    def _price(self, usage: object) -> dict[str, float]:
        """Nothing where the server counts no tokens."""
        sent, answered = (
            getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")
        )
        if not isinstance(sent, int) or not isinstance(answered, int):
            return {}
        cost = (sent * self._table.price_in + answered * self._table.price_out) / _MILLION
        return {f"{self._name}_tokens": float(sent + answered), f"{self._name}_cost": cost}


class Pace:
    """Lets at most so many requests a minute begin, evenly; None is any number."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 0.0 if per_minute is None else 60 / per_minute
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Wait until the next request may begin."""
        with self._lock:
            begin = max(self._next, time.monotonic())
            self._next = begin + self._seconds
        time.sleep(max(0.0, begin - time.monotonic()))


def _reason(error: openai.APIError) -> str:
    """Why a server does not answer; the client's own words are "Connection error."."""
    said, cause = first_line(error), error.__cause__
    plain = isinstance(error, openai.APIConnectionError) and cause is not None
    return f"{said.removesuffix('.')} ({first_line(cause)})" if plain and cause else said


def _data_url(picture: Image) -> str:
    body = io.BytesIO()
    picture.save(body, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(body.getvalue()).decode()
