"""Copies of a pipeline's modules and tokenizers whose calls are answered by a function of ours."""

import copy
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

Answer = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]
"""Called with the stand-in itself and with the arguments of its call; returns the answer."""

_ANSWER = "_imagemill_answer"


def stand_in(original: Any, answer: Answer) -> Any:
    """A shallow copy of a module or a tokenizer whose call is answered by `answer`.

    It shares all submodules and weights. It is an instance of the original's class, because
    pipelines ask for that, and for its configuration.
    """
    found = copy.copy(original)
    # Hooks, such as those of offloading, put a `forward` there, which would be called instead.
    found.__dict__.pop("forward", None)
    found.__dict__[_ANSWER] = answer
    kind: Any = type(original)
    found.__class__ = _class_of(kind)
    return found


@cache
def _class_of(kind: Any) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__[_ANSWER](self, args, kwargs)

    members = {"__call__": call, "forward": call, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), members)
