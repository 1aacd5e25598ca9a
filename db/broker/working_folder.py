"""No process of ours imports from the working folder.

A folder of manifests may contain a `worker.py` or a `torch.py`, of its user or of somebody else.
Python puts the working folder first on `sys.path` for `python -m` and `python -c`, and billiard
starts the worker's children that way. Celery also adds it while it imports modules by name.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import celery.utils.imports
from celery.loaders.app import AppLoader


class Loader(AppLoader):  # type: ignore[misc]  # celery is untyped
    """Celery's loader, except that it never imports from the working folder.

    The application passes this class to the worker's children. There the loader is made before
    Celery imports anything by name.
    """

    def __init__(self, app: Any, **values: Any) -> None:
        celery.utils.imports.cwd_in_path = _path_as_it_is
        super().__init__(app, **values)

    def on_worker_init(self) -> None:
        """Make the children, which start after this, ignore the working folder too.

        Only a worker does this. A program that only uses the application (a producer, a test)
        decides itself where the processes that it starts import from.
        """
        os.environ["PYTHONSAFEPATH"] = "1"
        super().on_worker_init()


@contextmanager
def _path_as_it_is() -> Iterator[None]:
    yield
