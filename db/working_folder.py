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
    Celery imports anything by name. What else such a process starts is told by its environment.
    """

    def __init__(self, app: Any, **values: Any) -> None:
        os.environ["PYTHONSAFEPATH"] = "1"
        celery.utils.imports.cwd_in_path = _path_as_it_is
        super().__init__(app, **values)


@contextmanager
def _path_as_it_is() -> Iterator[None]:
    yield
