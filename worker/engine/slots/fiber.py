"""A function that stops in its middle, waits for an answer, and goes on.

It runs in a greenlet: a stack of its own in the caller's thread. Nothing runs at the same time, so
nothing is locked, and the order of everything is always the same.

torch keeps some state for each thread, such as whether gradients are computed. A pipeline changes
it at its begin and puts it back at its end, and many pipelines are begun before one ends. So the
caller must run every method here in the same state: the engine uses `torch.no_grad()`.
"""

import contextvars
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet


class Fiber:
    """Runs `function` from one `wait` to the next.

    After `resume`, `request` is what the function waits with, and `ended` says whether it has
    returned; then `take_result` is what it returned.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.request: Any = None
        self._result: Any = None
        self._function: Callable[[], Any] | None = function
        self._greenlet = greenlet(self._run)
        # A new greenlet has no context variables; the function expects those of its caller.
        self._greenlet.gr_context = contextvars.copy_context()

    @property
    def ended(self) -> bool:
        """Whether the function has returned or raised, or was stopped."""
        return bool(self._greenlet.dead)

    def resume(self, answer: object = None) -> None:
        """Run up to the next `wait`, or to the end. What the function raises is raised here.

        `answer` becomes what its last `wait` returns; the first call has none.
        """
        self.request = None
        self._greenlet.parent = getcurrent()
        if self._greenlet:
            self._greenlet.switch(answer)
        else:
            self._greenlet.switch()

    def wait(self, request: object) -> Any:
        """Called by the function itself: stop with a request, and return the answer to it."""
        self.request = request
        return self._greenlet.parent.switch()

    def stop(self) -> None:
        """End the function where it waits. Its `finally` clauses run."""
        self._greenlet.parent = getcurrent()
        # GreenletExit, the default, is no `Exception`: a pipeline's error handling lets it pass.
        self._greenlet.throw()

    def take_result(self) -> Any:
        """What the function returned, the first time that this is asked; then None.

        A pipeline's stand-ins refer to their fiber, and their classes to themselves. So a fiber
        lives until Python looks for garbage, and it must not keep a picture until then.
        """
        result, self._result = self._result, None
        return result

    def _run(self) -> None:
        function, self._function = self._function, None
        assert function is not None
        self._result = function()
