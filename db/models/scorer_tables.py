"""The tables `[scorers.NAME]` of the registry file: scorers that need a model or a server.

[scorers.clip_score]
kind = "clip"
source = "openai/clip-vit-large-patch14"                    # a Hub id, or a folder
revision = "…"                                              # 40 hex digits, for a Hub id

[scorers.shows_it]
kind = "judge"
url = "http://127.0.0.1:8000/v1"                            # any OpenAI-compatible endpoint
model = "Qwen2.5-VL-7B-Instruct"
question = "How well does this picture show: {prompt}? Answer with a number from 0 to 10."
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from imagemill.db.models.table_words import REVISION

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightsTable(_Table):
    """A scorer with weights: a folder in the layout of transformers, or a pinned Hub id."""

    source: str
    revision: Annotated[str, Field(pattern=REVISION)] | None = None

    @property
    def on_hub(self) -> bool:
        """Whether the weights are fetched from the Hub."""
        return self.revision is not None

    @model_validator(mode="after")
    def _is_pinned(self) -> Self:
        if self.revision is not None and _HUB_ID.fullmatch(self.source) is None:
            raise ValueError("revision belongs to a Hub id, as owner/name")
        if self.revision is None and not Path(self.source).is_absolute():
            raise ValueError("source is an absolute folder, or a Hub id with its revision")
        return self


class ClipTable(WeightsTable):
    """Cosine of a CLIP or SigLIP model's embeddings of picture and prompt, -1 to 1."""

    kind: Literal["clip"]


class AestheticTable(WeightsTable):
    """Linear layers on a CLIP model's normalized embedding of the picture, as LAION's."""

    kind: Literal["aesthetic"]
    head: Path
    """A safetensors file with the layers' weights and biases, in the order of their numbers."""

    @field_validator("head")
    @classmethod
    def _is_absolute(cls, head: Path) -> Path:
        if not head.is_absolute():
            raise ValueError("expected an absolute path")
        return head


class ClassifierTable(WeightsTable):
    """The probability of a label of an image classifier."""

    kind: Literal["classifier"]
    label: str


class JudgeTable(_Table):
    """A vision-language model behind an OpenAI-compatible endpoint: a number, or a text."""

    kind: Literal["judge"]
    url: str
    model: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: Literal["number", "text"] = "number"
    most: float = Field(10.0, gt=0, allow_inf_nan=False)
    """The largest number that it may answer; the score is the answer divided by it."""
    key_variable: str | None = Field(None, min_length=1)
    """The environment variable with the endpoint's key; without one, no key is sent."""
    requests_per_minute: float | None = Field(None, gt=0)
    """The most requests of one process."""
    parallel: int = Field(4, ge=1, le=64)
    timeout_seconds: float = Field(60.0, gt=0, le=86_400)
    retries: int = Field(5, ge=0, le=1_000)
    max_tokens: int = Field(256, ge=1)
    price_in: float = Field(0.0, ge=0)
    price_out: float = Field(0.0, ge=0)
    """Prices of a million tokens, in any currency."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("expected http://… or https://…")
        try:
            parts = urlsplit(url)
            good = bool(parts.hostname) and " " not in url and parts.port != 0
        except ValueError:  # a port or an IPv6 address that is none
            good = False
        if not good:
            raise ValueError("expected a host, and a port from 1 to 65535 if there is one")
        return url

    @field_validator("question")
    @classmethod
    def _knows_its_places(cls, question: str) -> str:
        strange = set(re.findall(r"\{(.*?)\}", question)) - {"prompt", "negative_prompt"}
        if strange:
            raise ValueError("only {prompt} and {negative_prompt} are filled in")
        return question


SCORER_TABLES: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "clip": ClipTable,
        "aesthetic": AestheticTable,
        "classifier": ClassifierTable,
        "judge": JudgeTable,
    }
)
"""The tables of scorers, by `kind`."""

ScorerTable = Annotated[
    ClipTable | AestheticTable | ClassifierTable | JudgeTable, Field(discriminator="kind")
]
