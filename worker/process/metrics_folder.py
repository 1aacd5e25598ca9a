"""The folder into which a worker's children write their metrics.

prometheus_client looks while it is imported whether there is such a folder. A forked child has the
parent's modules, so the parent names the folder first and imports the library afterwards.
"""

import os
import shutil
from collections.abc import Callable

from imagemill.db.process.owned_folder import make_folder
from imagemill.db.settings import Settings

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client finds the folder."""


def serve_children(settings: Settings) -> Callable[[], None]:
    """Serve the metrics of the children to come; the result ends it. Call it in the parent.

    Without a port in the settings it does nothing. Folders that killed workers left behind are
    removed. Raises `SettingsError` if nobody can listen.
    """
    if settings.metrics_port is None:
        return lambda: None
    folder = make_folder("imagemill-metrics-")
    before = os.environ.get(FOLDER)
    os.environ[FOLDER] = str(folder)
    from imagemill.worker.process.children_metrics import serve_folder  # noqa: PLC0415  # see above

    try:
        stop = serve_folder(folder, settings)
    except BaseException:
        _restore(before)
        shutil.rmtree(folder, ignore_errors=True)
        raise

    def close() -> None:
        stop()
        shutil.rmtree(folder, ignore_errors=True)

    return close


def _restore(folder: str | None) -> None:
    os.environ.pop(FOLDER)
    if folder is not None:
        os.environ[FOLDER] = folder
