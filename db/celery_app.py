"""The Celery application by its dotted name, for Celery's own tools:
`celery -A imagemill.db.celery_app …`.

The only module that reads the settings when it is imported, because such tools can't hand them in.
"""

from imagemill.db.broker import make_app
from imagemill.db.settings import Settings

app = make_app(Settings.load())
