"""Denoiser calls of several slots in one pass: which of them may share it, and the pass itself.

In a slot's pipeline each denoiser is replaced by a stand-in, which hands over the arguments of its
call and waits. The modules that all slots share are not touched.
"""

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from imagemill.worker.engine.slots.fiber import Fiber
from imagemill.worker.engine.slots.guidance_interval import GuidanceInterval, Half, doubled
from imagemill.worker.engine.slots.row_layout import (
    Call,
    RowLayout,
    call_structure,
)
from imagemill.worker.engine.slots.stand_ins import stand_in
from imagemill.worker.engine.slots.text_lengths import text_lengths, with_padded_texts
from imagemill.worker.models.pipelines import Pipeline, denoisers

CONTROLNET = "controlnet"
"""The name of a ControlNet in every pipeline that has one."""

_Key = tuple[str, Hashable]
"""A denoiser's name in its pipeline, and the structure of a call."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PassRequest:
    """A call that a stand-in hands over. `name` is the denoiser's name in its pipeline.

    `half` says which half of its rows is the prompt's, where no other counts: `first` or `second`.
    `halved` says that the call has only that half.
    """

    name: str
    call: Call
    half: Half | None = None
    halved: bool = False

    @cached_property
    def key(self) -> _Key:
        """What the calls have in common whose arguments grow alike with the number of images."""
        return self.name, call_structure(self.call)


def replace_denoisers(
    pipeline: Pipeline, fiber: Fiber, interval: GuidanceInterval | None = None
) -> None:
    """Put stand-ins into a pipeline, a copy made for one call, that runs in this fiber.

    A guidance interval follows the calls of the denoiser itself, not those of a ControlNet.
    """
    for name, module in denoisers(pipeline).items():
        followed = None if name == CONTROLNET else interval
        # As an attribute, diffusers would enter it into the configuration, which takes its time.
        pipeline.__dict__[name] = _stand_in(name, module, fiber, followed)


class SharedPasses:
    """Makes the passes of one engine. It learns each structure of calls when it first sees one.

    `pipeline` has the real denoisers, `controlnet` is one more. A pass has `images` images.
    """

    def __init__(
        self, pipeline: Pipeline, *, images: int, controlnet: torch.nn.Module | None = None
    ) -> None:
        self._modules = denoisers(pipeline)
        if controlnet is not None:
            self._modules[CONTROLNET] = controlnet
        self._names = {name: _argument_names(module) for name, module in self._modules.items()}
        self._lengths = {name: text_lengths(module) for name, module in self._modules.items()}
        self._images = images
        self._known: dict[_Key, RowLayout | None] = {}

    def normalized(self, request: PassRequest) -> PassRequest:
        """The request in the form in which most others are: see `_by_name` and `text_lengths`.

        With one image in a pass it stays as it is: the pipeline's own call.
        """
        if self._images == 1:
            return request
        call = _by_name(self._names[request.name], request.call)
        call = with_padded_texts(call, self._lengths[request.name])
        return replace(request, call=call)

    def with_prompt_rows_only(self, request: PassRequest) -> PassRequest:
        """The request with the prompt's rows alone, if no others count.

        Its structure must have been learnt, by `signature`.
        """
        if request.half is None:
            return request
        layout = self._known.get(request.key)
        if layout is None:
            return request
        call = layout.half(request.call, first=request.half == "first")
        return request if call is None else replace(request, call=call, halved=True)

    def signature(self, request: PassRequest, begin: Callable[[int], Fiber]) -> Hashable:
        """Equal for requests that may share a pass.

        A structure that is met for the first time is learnt: `begin(count)` makes the fiber of a
        pipeline call for one image or for two.
        """
        if self._images == 1:
            return request
        key = request.key
        if key not in self._known:
            self._known[key] = self._learnt(key, begin)
        layout = self._known[key]
        return request if layout is None else (key, layout.signature(request.call))

    def run(self, requests: Sequence[PassRequest]) -> list[Any]:
        """One forward pass for requests of one signature; the result of each."""
        first = requests[0]
        module = self._modules[first.name]
        layout = self._known.get(first.key)
        if layout is None:
            args, kwargs = first.call
            return [module(*args, **kwargs)]  # such a request was not halved
        rows = layout.rows(first.call)
        calls = [request.call for request in requests]
        args, kwargs = layout.together(calls, images=self._images)
        output = module(*args, **kwargs)
        results = layout.apart(output, count=len(calls), images=self._images, rows=rows)
        return [doubled(each) if first.halved else each for each in results]

    def _learnt(self, key: _Key, begin: Callable[[int], Fiber]) -> RowLayout | None:
        """How calls of this structure merge; None if they do not, so that each has a pass alone.

        That is so where a pipeline does not take two images.
        """
        try:
            one, two = (self._reached(key, begin(count)) for count in (1, 2))
            if one is None or two is None:
                return None
            return RowLayout(one, two, multiple=self._lengths[key[0]].multiple)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a pipeline may refuse two images by any error
            return None

    def _reached(self, key: _Key, fiber: Fiber) -> Call | None:
        """The first call of this structure; None if the pipeline makes none."""
        answer = None
        try:
            while True:
                fiber.resume(answer)
                if fiber.ended:
                    return None
                request = self.normalized(fiber.request)
                if request.key == key:
                    return request.call
                args, kwargs = request.call
                answer = self._modules[request.name](*args, **kwargs)
        finally:
            if not fiber.ended:
                fiber.stop()


def _by_name(names: Sequence[str], call: Call) -> Call:
    """The call with its arguments as keywords, and its timestep as a float.

    Some samplers count timesteps in integers and some do not. Every denoiser turns them into
    floats first, so it makes no difference to it, but torch does not put the two together.
    """
    args, kwargs = call
    if len(args) <= len(names):
        args, kwargs = (), {**dict(zip(names, args, strict=False)), **kwargs}
    timestep = kwargs.get("timestep")
    if torch.is_tensor(timestep) and not timestep.is_floating_point():
        kwargs = {**kwargs, "timestep": timestep.to(torch.float32)}
    return args, kwargs


def _argument_names(module: torch.nn.Module) -> list[str]:
    """The names of the arguments that a denoiser also takes by position, in their order."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    return [
        each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]


def _stand_in(
    name: str, module: torch.nn.Module, fiber: Fiber, interval: GuidanceInterval | None
) -> Any:
    """A copy of the module whose call waits for a pass."""

    def answer(_self: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        request = PassRequest(name=name, call=(args, dict(kwargs)))
        if interval is None:
            return fiber.wait(request)
        return interval.follow(
            module, request.call, lambda half: fiber.wait(replace(request, half=half))
        )

    return stand_in(module, answer)
