"""A call that somebody else's loop makes, stopped at every step.

diffusers' pipelines run their whole loop in one call. Here that call has a thread of its own,
which waits before every denoiser call but the first until it is told to go on: so a shift can
renew its lease, drain or cancel between any two steps of any pipeline, whether that knows of
callbacks or not. Of the two threads one works at a time.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class Stepwise(Generic[Result]):
    """`call`, made to stop before each forward pass of one of `modules`.

    The modules may be in use elsewhere too: only calls from this one's thread are stopped.
    """

    def __init__(self, call: Callable[[], Result], modules: Iterable[torch.nn.Module]) -> None:
        self.result: Result | None = None
        self._call = call
        self._modules = tuple(modules)
        self._passes = 0
        self._mine = threading.Semaphore(0)
        self._callers = threading.Semaphore(0)
        self._dropped = False
        self._finished = False
        self._error: BaseException | None = None
        # A daemon: a process that ends in the middle of a picture does not wait for it.
        self._thread = threading.Thread(target=self._work, name="pipeline", daemon=True)

    @property
    def begun(self) -> bool:
        """Whether a forward pass was reached."""
        return self._passes > 0

    def advance(self) -> bool:
        """Let the call get on by one forward pass; whether it ended. What it raises is raised."""
        if self._thread.ident is None:
            self._thread.start()
        self._mine.release()
        self._callers.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            self._thread.join()
            raise error
        if self._finished:
            self._thread.join()
        return self._finished

    def drop(self) -> None:
        """End the call where it stands, and wait until it is gone."""
        self._dropped = True
        if self._thread.ident is not None:
            self._mine.release()
            self._thread.join()

    def _work(self) -> None:
        self._mine.acquire()
        hooks = [module.register_forward_pre_hook(self._pause) for module in self._modules]
        try:
            with torch.no_grad():
                self.result = self._call()
        except _Dropped:
            pass
        except BaseException as error:  # raised again in the caller's thread
            self._error = error
        finally:
            for hook in hooks:
                hook.remove()
            self._finished = True
            self._callers.release()

    def _pause(self, _module: torch.nn.Module, _inputs: object) -> None:
        if threading.get_ident() != self._thread.ident:
            return
        self._passes += 1
        if self._passes == 1:
            return
        self._callers.release()
        self._mine.acquire()
        if self._dropped:
            raise _Dropped


class _Dropped(BaseException):
    """Ends a call; not an `Exception`, so that nothing on the way out takes it for a fault."""
