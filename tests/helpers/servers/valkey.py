"""The broker for tests: the Valkey that `imagemill run` embeds, on a loopback port."""

from redis import Redis

from imagemill.scheduler_jobs.local.valkey import EmbeddedValkey
from tests.helpers.servers.scratch import ScratchFolder

DATABASES = 16


class Valkey(EmbeddedValkey):
    """`url` is database 0 for Celery; `fresh_url` gives every test an empty one of its own."""

    def __init__(self) -> None:
        self._scratch = ScratchFolder("valkey")
        super().__init__(self._scratch.path / "data", loopback=True)
        self._number = 0

    def fresh_url(self) -> str:
        """The URL of an empty database, another than the last fifteen times."""
        self._number = self._number % (DATABASES - 1) + 1
        url = f"{self.url.rpartition('/')[0]}/{self._number}"
        with Redis.from_url(url) as client:
            client.flushdb()
        return url

    def stop(self) -> None:
        super().stop()
        self._scratch.remove()
