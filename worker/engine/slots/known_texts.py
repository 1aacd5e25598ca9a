"""What the text encoders of a model have answered, so that nothing is encoded twice.

A pipeline encodes the texts of its one image itself. Most rows of a manifest have the same negative
prompt, and many have the same prompt. An encoder's answer depends on the arguments of its call
alone, so an answer that is known has the bits of a new one.
"""

import hashlib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from cachetools import LRUCache

from imagemill.worker.engine.slots.stand_ins import stand_in
from imagemill.worker.models.pipelines import Pipeline

_CACHE_BYTES = 256 * 1024 * 1024
_PLAIN = (str, int, float, bool, torch.dtype, type(None))
_NOT_KEPT = "past_key_values"
"""What only a model that goes on writing a text needs. It may be larger than all the rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """An encoder's answer, and the versions that its tensors had when it gave it."""

    answer: Any
    versions: tuple[int, ...]
    size: int


class KnownTexts:
    """The answers of one engine's encoders, at most `limit` bytes of them on the device."""

    def __init__(self, *, limit: int = _CACHE_BYTES) -> None:
        self._known: LRUCache[Hashable, _Known] = LRUCache(limit, getsizeof=lambda each: each.size)

    def remember(self, pipeline: Pipeline) -> None:
        """Replace this pipeline's encoders, of texts and of reference pictures.

        Those in their place look here first. The pipeline must be a copy.
        """
        for name, component in pipeline.components.items():
            if isinstance(component, transformers.PreTrainedModel):
                setattr(pipeline, name, self._remembering(name, component))

    def _remembering(self, name: str, encoder: Any) -> Any:
        def answer(_self: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            try:
                key = (name, _content(args), _content(kwargs))
            except TypeError:
                return encoder(*args, **kwargs)
            known = self._known.get(key)
            # Some pipelines write into what an encoder gave them; that must not be used again.
            if known is not None and known.versions == _versions(known.answer):
                return known.answer
            found = encoder(*args, **kwargs)
            self._keep(key, found)
            return found

        return stand_in(encoder, answer)

    def _keep(self, key: Hashable, answer: Any) -> None:
        if isinstance(answer, Mapping):
            answer = type(answer)(**{k: v for k, v in answer.items() if k != _NOT_KEPT})
        try:
            known = _Known(answer=answer, versions=_versions(answer), size=_size(answer))
        except TypeError:
            return
        self._known.pop(key, None)
        if known.size <= self._known.maxsize:
            self._known[key] = known


def _content(value: Any) -> Hashable:
    """Equal for equal arguments; a `TypeError` for arguments whose content is not known."""
    if torch.is_tensor(value):
        content = value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        digest = hashlib.sha256(content).hexdigest()
        return tuple(value.shape), value.dtype, str(value.device), digest
    if isinstance(value, list | tuple):
        return tuple(_content(each) for each in value)
    if isinstance(value, Mapping):
        return tuple((name, _content(each)) for name, each in sorted(value.items()))
    if isinstance(value, _PLAIN):
        return type(value).__name__, value
    raise TypeError(type(value).__name__)


def _tensors(answer: Any) -> Iterator[torch.Tensor]:
    """The tensors of an answer; a `TypeError` if it has anything else."""
    if torch.is_tensor(answer):
        yield answer
    elif isinstance(answer, Mapping):
        for each in answer.values():
            yield from _tensors(each)
    elif isinstance(answer, list | tuple):
        for each in answer:
            yield from _tensors(each)
    elif answer is not None:
        raise TypeError(type(answer).__name__)


def _versions(answer: Any) -> tuple[int, ...]:
    return tuple(tensor._version for tensor in _tensors(answer))


def _size(answer: Any) -> int:
    """The bytes of all tensors; views of one storage count once."""
    storages = {each.untyped_storage().data_ptr(): each for each in _tensors(answer)}
    return sum(each.untyped_storage().nbytes() for each in storages.values())
