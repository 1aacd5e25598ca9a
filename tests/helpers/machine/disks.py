"""Small disks to be filled up (a tmpfs each), and slow ones; only root may mount either."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagemill.scheduler_jobs.local.ports import free_ports
from imagemill.scheduler_jobs.local.postgres import PostgresServer


@contextmanager
def small_disk(place: Path, *, megabytes: int) -> Iterator[Path]:
    """A disk of this size in a new folder; the test is skipped where none may be mounted."""
    place.mkdir()
    size = f"size={megabytes}m"
    command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def postgres_on(folder: Path, *, durable: bool, log: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL whose data lie in a folder of such a disk. `durable`: it waits for the disk."""
    with PostgresServer(
        folder,
        port=free_ports(1)[0],
        user="app",
        password=secrets.token_hex(16),
        log=log,
        durable=durable,
    ) as server:
        yield server


def fill(disk: Path, *, leave: int = 0) -> Path:
    """Take all room but `leave` bytes; the file that takes it, to be removed again."""
    space = os.statvfs(disk)
    ballast = disk / f"all-but-{leave}"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - leave)
    return ballast


_WRITES_A_SECOND = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device")
"""Where Linux takes the most writes a second of a device, of all processes together."""


class SlowDisk:
    """A disk in a file, whose writes the kernel delays: commits and fsync take seconds."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self._device = device

    def slow_to(self, writes_a_second: int) -> None:
        """Delay writes from now on; 0: no longer."""
        _WRITES_A_SECOND.write_text(f"{self._device} {writes_a_second}\n")


@contextmanager
def slow_disk(place: Path, *, megabytes: int) -> Iterator[SlowDisk]:
    """A disk of this size in a new folder, not slow yet; the test is skipped where none may be.

    It needs root, a loop device and the first version of cgroups, which can delay a device.
    """
    place.mkdir()
    image = place.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    commands = [["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(place)]]
    for command in commands:
        if (
            os.geteuid() != 0
            or not _WRITES_A_SECOND.exists()
            or shutil.which(command[0]) is None
            or subprocess.run(command, check=False, capture_output=True).returncode
        ):
            pytest.skip("no disk can be slowed down here")
    number = place.stat().st_dev
    disk = SlowDisk(place, f"{os.major(number)}:{os.minor(number)}")
    try:
        yield disk
    finally:
        disk.slow_to(0)
        subprocess.run(["umount", "--lazy", str(place)], check=True)
