"""The Celery application for Celery's own tools: `python -P -m imagemill.db.broker.celery_app …`.

The command `celery -A imagemill.db.broker.celery_app …` works too, but looks for `imagemill` in the
working folder first. This module reads the settings at import, because such tools can't pass them.
"""

import sys

from imagemill.db.broker.wake_ups import make_app
from imagemill.db.process.grace_period import begin_grace
from imagemill.db.settings import Settings

app = make_app(Settings.load())

if __name__ == "__main__":
    try:
        app.start(sys.argv[1:])
    finally:
        begin_grace()  # threads of Flower look for a lost broker for ever
