"""How fast a finished job is exported: `python -m benchmarks.exports [--images N] [--format F]`.

Makes a job of N small pictures in a SQLite database and a folder (without torch), exports it, and
prints images/s, the CPU's seconds and the peak memory of the exporting process; the same as JSON
with `--json FILE`. On a machine that others use too, images a second of CPU say more.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sqlalchemy import insert, select, update

from imagemill.db.database import Database
from imagemill.db.schema import migrate
from imagemill.db.settings import Settings
from imagemill.db.tables import Image, Object
from tests.helpers.mill import Mill, sha, spec

CHUNK = 5000
BODY = bytes(np.random.default_rng(1).integers(0, 256, 8000, dtype=np.uint8))
"""Of the size of a picture of 64 x 64 pixels; each file ends with its own number."""


def make_job(home: Path, images: int) -> None:
    """A finished job with a file for each image."""
    database = Database.from_settings(Settings.for_home(home))
    migrate(database)
    mill = Mill(database)
    job = mill.create("bench")
    for start in range(0, images, CHUNK):
        count = min(CHUNK, images - start)
        mill.insert(job, [spec(f"prompt {n}") for n in range(start, start + count)])
        _finish(mill, home / "objects", job)
        print(f"\r{start + count:,} of {images:,} images made", end="", file=sys.stderr)
    print(file=sys.stderr)
    database.close()


def _finish(mill: Mill, store: Path, job: int) -> None:
    """Give the newest images a file each, past all leases: a benchmark needs no worker."""
    files = []
    newest = select(Image.id, Image.request_key).where(
        Image.job_id == job, Image.object_id.is_(None)
    )
    with mill.database.reading() as session:
        found = session.execute(newest).all()
    for image in found:
        body = BODY + str(image.id).encode()
        digest = hashlib.sha256(body).hexdigest()
        key = f"{image.request_key[:2]}/{image.request_key}-{digest}.png"
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        (store / key).write_bytes(body)
        files.append(
            {
                "id": image.id,
                "request_key": image.request_key,
                "object_key": key,
                "uri": f"file:///{key}",
                "sha256": digest,
                "pixels_sha256": sha(digest),
                "size_bytes": len(body),
                "width": 64,
                "height": 64,
                "format": "png",
                "outcome": "ok",
                "environment_id": mill.environment_id,
                "seconds": 0.1,
            }
        )

    def record(session: object) -> None:
        session.execute(insert(Object), files)  # type: ignore[attr-defined]
        session.execute(  # type: ignore[attr-defined]
            update(Image),
            [
                {"id": f["id"], "state": "done", "object_id": f["id"], "outcome": "ok"}
                for f in files
            ],
        )

    mill.database.run(record)


def measure(home: Path, export_format: str, target: Path) -> dict[str, float]:
    """One export in a process of its own: seconds, those of the CPU, and peak memory in MiB."""
    command = [sys.executable, "-m", "imagemill", "--home", str(home), "export", "latest"]
    started = time.monotonic()
    child = subprocess.Popen(
        [*command, "--format", export_format, "--to", str(target)], stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"the export ended with status {status}")
    return {
        "seconds": time.monotonic() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
    }


def main() -> None:
    """Make the job, export it, print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--format", default="webdataset", dest="export_format")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagemill-bench-") as folder:
        home = Path(folder)
        make_job(home, options.images)
        found = measure(home, options.export_format, home / "export")
    result = {
        "format": options.export_format,
        "images": options.images,
        "images_per_second": round(options.images / found["seconds"]),
        **found,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(
        f"{options.export_format}: {options.images:,} images in {found['seconds']:.1f} s, "
        f"{result['images_per_second']:,} images/s; {found['cpu_seconds']:.1f} s of CPU, "
        f"{options.images / found['cpu_seconds']:,.0f} images for each; "
        f"peak {found['peak_mib']:.0f} MiB"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
