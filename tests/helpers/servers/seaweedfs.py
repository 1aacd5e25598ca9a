"""The S3 server of `imagemill up`, in a scratch folder, with one pair of keys that may do all."""

import secrets
import signal

from imagemill.scheduler_jobs.local.ports import free_ports
from imagemill.scheduler_jobs.local.seaweedfs import PORTS, SeaweedServer
from tests.helpers.servers.scratch import ScratchFolder


class Seaweed(SeaweedServer):
    """A server with one bucket, `bucket`. A test keeps to its own prefix, or makes a bucket;
    every bucket costs the server room on disk, so few tests should."""

    bucket = "pictures"
    polite_signal = signal.SIGKILL  # asked politely, it takes its time

    def __init__(self) -> None:
        self._scratch = ScratchFolder("seaweedfs")
        super().__init__(
            self._scratch.path,
            ports=dict(zip(PORTS, free_ports(len(PORTS)), strict=True)),
            bucket=self.bucket,
            access_key=secrets.token_hex(10),
            secret_key=secrets.token_hex(20),
            log=self._scratch.path / "server.log",
            inherit=[self._scratch.lock],
        )

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a process needs to work with this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "IMAGEMILL_S3_ENDPOINT_URL": self.endpoint,
        }

    def create_bucket(self) -> str:
        """A new, empty bucket; its name."""
        name = f"bucket-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name

    def stop(self) -> None:
        """End it and remove its data."""
        super().stop()
        self._scratch.remove()
