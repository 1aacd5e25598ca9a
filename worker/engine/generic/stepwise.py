"""Runs a pipeline's call one denoiser call at a time.

A diffusers pipeline runs its whole loop in one call. Here that call runs in a thread of its own.
The thread waits before every denoiser call, except the first, until it is told to go on. So a
shift can renew its lease, drain or cancel between any two steps, even if the pipeline has no
callbacks. Only one of the two threads runs at a time.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class Stepwise(Generic[Result]):
    """Runs `call` and stops it before each forward pass of one of `modules`.

    Other threads may use the same modules: only calls from this object's thread are stopped.
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
        # A daemon thread: the process can end in the middle of an image without waiting for it.
        self._thread = threading.Thread(target=self._work, name="pipeline", daemon=True)

    @property
    def begun(self) -> bool:
        """Whether the call has reached its first forward pass."""
        return self._passes > 0

    def advance(self) -> bool:
        """Let the call do one more forward pass; return whether it has ended.

        Errors of the call are raised here, in the caller's thread.
        """
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
        """End the call where it stands, and wait until its thread has ended."""
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
    """Ends a call. It is no `Exception`: a pipeline's own error handling must not catch it."""
