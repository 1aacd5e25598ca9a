"""The units for systemd and the script for Slurm: checked by their own tools, and run."""

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from imagemill.db.settings import Settings
from tests.helpers.places import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
SCRIPT = ROOT / "deploy" / "slurm" / "workers.sbatch"
PATIENCE_SECONDS = 240


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_takes_a_unit_without_a_complaint(unit: Path, tmp_path: Path):
    # The program is not installed where the unit expects it; everything else stays as it is.
    program = tmp_path / "imagemill"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text("utf-8").replace("/opt/imagemill/bin/imagemill", str(program)))
    verify = ["systemd-analyze", "verify", "--man=no", str(copy)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if str(copy.name) in line]
    assert (done.returncode, said) == (0, [])


def test_a_worker_s_unit_signals_once_and_waits_for_the_drain():
    text = (ROOT / "deploy/systemd/imagemill-worker.service").read_text("utf-8")
    assert "KillMode=mixed" in text
    wait = re.search(r"^TimeoutStopSec=(\d+)$", text, re.M)
    assert wait is not None
    assert int(wait[1]) > Settings.model_fields["drain_seconds"].default + 10


def stub(file: Path, text: str) -> Path:
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)
    return file


SRUN = """
"$@" &
task=$!
trap 'kill -USR1 "$task"' USR1
trap 'kill -KILL "$task"' TERM
while kill -0 "$task" 2>/dev/null; do wait "$task"; status=$?; done
exit "$status"
"""
"""srun as far as it matters here: it passes USR1 on, and takes TERM for an order to kill."""


def test_slurm_s_workers_join_and_drain_when_their_time_is_over(tmp_path: Path):
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    stub(tmp_path / "srun", SRUN)
    log = tmp_path / "log"
    program = stub(
        tmp_path / "imagemill",
        f'echo "$1 ${{@:3}} $(test "$3" = join && cat)" >> {log}; mkdir -p "$2"',
    )
    (tmp_path / "token").write_text("the token")
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "TMPDIR": str(tmp_path),
        "IMAGEMILL_JOIN_TOKEN": str(tmp_path / "token"),
        "IMAGEMILL_PROGRAM": str(program),
    }
    with subprocess.Popen(["bash", SCRIPT], env=environment) as job:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (log.exists() and "join" in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        assert job.wait(PATIENCE_SECONDS) == 0
    assert [line.strip() for line in log.read_text().splitlines()] == [
        "--home join - the token",
        "--home down",
    ]
    assert not list(tmp_path.glob("tmp.*")), "a node keeps nothing"


def test_slurm_without_a_token_is_one_line(tmp_path: Path):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "imagemill env --join" in done.stderr
