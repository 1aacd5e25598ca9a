"""Prompts as embeddings, for pipelines that read them with CLIP and take their embeddings.

A pipeline itself reads one window of a prompt, and no weights. So a weighted prompt, and one of
several windows, is encoded as the guided engine does it, and the call gets the result. All other
prompts are left to the pipeline.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from imagemill.db.specs import ImageSpec
from imagemill.worker.engine.texts.conditions import Conditioner, texts_of
from imagemill.worker.models.model import Model

_EMBEDDINGS = "prompt_embeds"


class EmbeddedPrompts:
    """Encodes the prompts of one engine, each one alone. Every prompt has `windows`."""

    def __init__(self, model: Model, *, windows: int) -> None:
        self._conditioner = Conditioner(model, rows=1, windows=windows)

    def arguments(self, spec: ImageSpec, *, images: int) -> dict[str, Any]:
        """What a call gets instead of its prompts, for so many images of the specification.

        Raises `UsageError` if a weight is no number.
        """
        prompt, negative = texts_of(spec)
        texts = [prompt]
        if negative is not None:
            # A pipeline takes zeros for no negative prompt. It is always given one, if only "".
            texts.append(replace(negative, negative=False))
        found: dict[str, Any] = {}
        conditions = self._conditioner.conditions(texts)
        for kind, condition in zip(("", "negative_"), conditions, strict=False):
            assert condition.hidden is not None
            found[f"{kind}{_EMBEDDINGS}"] = condition.hidden.repeat(images, 1, 1)
            if condition.pooled is not None:
                found[f"{kind}pooled_{_EMBEDDINGS}"] = condition.pooled.repeat(images, 1)
        return found

    def cut(self, spec: ImageSpec) -> str | None:
        """The end of a prompt that does not fit into its windows; None if all of it does."""
        return self._conditioner.cut(texts_of(spec)[0])


def are_embedded(spec: ImageSpec) -> bool:
    """Whether a specification's prompts are ones that no pipeline reads itself."""
    return spec.prompt_weighting or spec.windows > 1


def embedded_prompts(model: Model, *, windows: int) -> EmbeddedPrompts | None:
    """The encoder of a model's prompts; None if not all that it reads of them comes from CLIP."""
    return None if model.facts.window is None else EmbeddedPrompts(model, windows=windows)


def takes_embeddings(parameters: Mapping[str, Any]) -> bool:
    """Whether a call with these parameters takes embeddings of prompts."""
    return _EMBEDDINGS in parameters
