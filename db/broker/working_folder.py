"""No process of ours imports from the working folder.

A folder of manifests may hold a `worker.py` or a `torch.py` of its user's, or of somebody else's.
Python puts that folder first on `sys.path` for `python -m` and `python -c` (billiard starts the
worker's children so), and Celery puts it there while it imports what its settings name.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import celery.utils.imports
from celery.loaders.app import AppLoader


class Loader(AppLoader):  # type: ignore[misc]  # celery is untyped
    """Celery's loader, without its habit of importing from the working folder.

    An application carries it to the worker's children, as a class: there it is in force before
    Celery imports anything by name.
    """

    def __init__(self, app: Any, **values: Any) -> None:
        celery.utils.imports.cwd_in_path = _path_as_it_is
        super().__init__(app, **values)

    def on_worker_init(self) -> None:
        """Tell the children, which start after this, to leave the working folder out too.

        Only a worker sets this: a program that merely uses the application (a producer, a test)
        decides for itself where the processes that it starts import from.
        """
        os.environ["PYTHONSAFEPATH"] = "1"
        super().on_worker_init()


@contextmanager
def _path_as_it_is() -> Iterator[None]:
    yield
