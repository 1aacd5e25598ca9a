"""A process independent of the system: rebuilds the promises I1-I8 from the database, the bucket
and the raw history, with SQL and S3 requests of its own.

Of the system's code it uses only the keys of specifications and files: to draw the pixels that
the engine without torch must have given, to find those that the real engine gave where nobody
disturbed it, and to see which image a file without a row is of. Its input is one JSON object on
stdin, its output one: each violation found, and what was counted.
"""

import hashlib
import io
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import psycopg
from botocore.config import Config
from PIL import Image
from psycopg.rows import dict_row

from imagemill.db.specs import ImageSpec
from imagemill.db.storage.keys import request_key_of
from tests.chaos.history import read_history
from tests.chaos.plan import POISON, RENDERER_ROUTE
from tests.helpers.fake_engine import pixels_of

THREADS = 4

LOST_TRY = "lost try: "
"""Begins the names under which lost tries of innocent images alone are counted by cause."""

_AWAY = ("kill database", "Postgres restarts", "stall database", "slow database")

_OUTAGE_SECONDS = 5
"""How long after its lease a worker may be given up because the database was just starting."""


class Checker:
    """Everything that is asked of one campaign's leftovers."""

    def __init__(self, dsn: str, history: Path, reference: Mapping[str, Any]) -> None:
        self.violations: list[str] = []
        self.counted: Counter[str] = Counter()
        self._events = list(read_history(history))
        self._reference = reference
        with psycopg.connect(dsn, row_factory=dict_row) as connection:
            self._jobs = _all(connection, "SELECT * FROM jobs")
            self._rows = _all(connection, "SELECT id, job_id, number FROM rows")
            self._images = _all(
                connection,
                "SELECT i.*, m.weights_digest, j.route FROM images i"
                " JOIN groups g ON g.id = i.group_id JOIN models m ON m.id = g.model_id"
                " JOIN jobs j ON j.id = i.job_id",
            )
            self._objects = {
                o["id"]: o
                for o in _all(
                    connection,
                    "SELECT o.*, e.fingerprint FROM objects o"
                    " JOIN environments e ON e.id = o.environment_id",
                )
            }
            self._attempts = _all(connection, "SELECT * FROM attempts ORDER BY id")
            shifts = "SELECT s.*, w.pid FROM shifts s JOIN workers w ON w.id = s.worker_id"
            self._shifts = {s["id"]: s for s in _all(connection, shifts)}
            self._tallies = _all(
                connection,
                "SELECT job_id, state, sum(delta)::int AS n FROM tallies GROUP BY job_id, state",
            )

    def check(self, bucket: "Bucket") -> None:
        self._requested()
        self._objects_of_images()
        self._files(bucket)
        self._real_engine()
        self._fences()
        self._ends()
        self._deaths()

    def _broken(self, rule: str, message: str) -> None:
        self.violations.append(f"{rule}: {message}")

    def _requested(self) -> None:
        """I1, I6: the database holds what the manifests ask for, each image once."""
        jobs = defaultdict(list)
        for job in self._jobs:
            jobs[job["name"]].append(job["id"])
        numbers = {row["id"]: (row["job_id"], row["number"]) for row in self._rows}
        found = Counter(
            (*numbers[image["row_id"]], image["sample_index"], image["prompt"], image["steps"])
            for image in self._images
        )
        wanted: Counter[Any] = Counter()
        for event in self._events:
            if event["event"] != "manifest":
                continue
            ids = jobs.pop(event["name"], [])
            if len(ids) != 1:
                self._broken("I6", f"{event['name']} is {len(ids)} jobs")
                continue
            for number, row in enumerate(event["rows"], 1):
                for sample in range(row["samples"]):
                    wanted[ids[0], number, sample, row["prompt"], row["steps"]] += 1
        for image in (wanted - found).elements():
            self._broken("I1", f"lost: {image}")
        for image in (found - wanted).elements():
            self._broken("I1", f"doubled or never asked for: {image}")
        states = Counter((image["job_id"], image["state"]) for image in self._images)
        for tally in self._tallies:
            if tally["n"] != states[tally["job_id"], tally["state"]]:
                self._broken("I1", f"the counts of job {tally['job_id']} are not the truth")
        self.counted["requested"] = wanted.total()
        self.counted["lost"] = (wanted - found).total()
        self.counted["doubled"] = (found - wanted).total()
        for state, count in Counter(image["state"] for image in self._images).items():
            self.counted[state] = count

    def _objects_of_images(self) -> None:
        """I2: a done image has exactly the object of its request; no two objects share one."""
        keys = Counter(o["request_key"] for o in self._objects.values())
        for key, count in keys.items():
            if count != 1:
                self._broken("I2", f"{count} objects for request {key}")
        for image in self._images:
            if image["state"] == "done":
                its = self._objects.get(image["object_id"])
                if its is None or its["request_key"] != image["request_key"]:
                    self._broken("I2", f"image {image['id']} is done without its object")

    def _files(self, bucket: "Bucket") -> None:
        """I2, I3: every object is in the bucket with its hash and its pixels, and nothing else."""
        stored = bucket.keys()
        recorded = {o["object_key"]: o for o in self._objects.values()}
        held = {i["request_key"] for i in self._images if i["state"] == "leased"}
        for key in recorded.keys() - stored:
            self._broken("I2", f"object {key} is not in the bucket")
        for key in stored - recorded.keys():
            if request_key_of(key) in held:
                # Its worker may still record it, so a sweep must leave it. That the image is not
                # over is told by I7.
                self.counted["files of images that are still leased"] += 1
            else:
                self._broken("I3", f"{key} is in the bucket after a sweep, without a row")
        spec_of = {image["request_key"]: _spec(image) for image in self._images}
        with ThreadPoolExecutor(THREADS) as pool:
            present = [o for key, o in recorded.items() if key in stored]
            for problem in pool.map(
                lambda o: self._damage(o, bucket.get(o["object_key"]), spec_of[o["request_key"]]),
                present,
            ):
                if problem:
                    self._broken("I2", problem)
        self.counted["objects"] = len(recorded)

    def _damage(self, row: dict[str, Any], body: bytes, spec: ImageSpec) -> str | None:
        """What is wrong with a file; None if it is what its row and its specification say."""
        if (len(body), hashlib.sha256(body).hexdigest()) != (row["size_bytes"], row["sha256"]):
            return f"object {row['object_key']} is not what was recorded"
        pixels = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
        undisturbed = self._reference["pixels"].get(spec.pixel_key())
        wanted = undisturbed or hashlib.sha256(pixels_of(spec).tobytes()).hexdigest()
        if hashlib.sha256(pixels.tobytes()).hexdigest() != wanted:
            return f"object {row['object_key']} holds another picture"
        return None

    def _real_engine(self) -> None:
        """What the real engine rendered came from the environment of the undisturbed rendering,
        without which nothing is promised about its pixels."""
        images = [image for image in self._images if image["route"] == RENDERER_ROUTE]
        for image in images:
            if _spec(image).pixel_key() not in self._reference["pixels"]:
                self._broken("I2", f"image {image['id']} has no undisturbed picture")
            its = self._objects.get(image["object_id"])
            if its and its["fingerprint"] not in self._reference["environments"]:
                self._broken("I2", f"image {image['id']} is of another environment")
        ids = {image["id"] for image in images}
        lost = [a for a in self._attempts if a["event"] == "lost" and a["image_id"] in ids]
        self.counted["requested of the real engine"] = len(images)
        self.counted["lost while the real engine rendered them"] = len(lost)

    def _fences(self) -> None:
        """I4: nothing was recorded by a shift after it had ended."""
        for attempt in self._attempts:
            if attempt["event"] not in ("done", "failed"):
                continue
            shift = self._shifts[attempt["shift_id"]]
            if shift["ended_at"] is not None and attempt["at"] > shift["ended_at"]:
                self._broken("I4", f"shift {shift['id']} recorded {attempt['event']} after its end")
        frozen = [event["shift"] for event in self._events if "shift" in event]
        for shift_id in frozen:
            if self._shifts[shift_id]["end_reason"] != "lost":
                self._broken("I4", f"shift {shift_id} was frozen past its lease and not fenced")
        self.counted["shifts"] = len(self._shifts)
        self.counted["shifts lost"] = sum(s["end_reason"] == "lost" for s in self._shifts.values())

    def _ends(self) -> None:
        """I5, I7: everything is terminal, and became so once."""
        endings: Counter[int] = Counter()
        for attempt in self._attempts:
            if attempt["event"] in ("done", "dead", "cancelled"):
                endings[attempt["image_id"]] += 1
            if attempt["event"] in ("retried", "requeued"):
                self._broken("I5", f"image {attempt['image_id']} was {attempt['event']} by nobody")
        for image in self._images:
            if image["state"] not in ("done", "dead"):
                self._broken("I7", f"image {image['id']} is still {image['state']}")
            if endings[image["id"]] > 1:
                self._broken("I5", f"image {image['id']} ended {endings[image['id']]} times")
        for job in self._jobs:
            if job["state"] != "finished":
                self._broken("I7", f"job {job['name']} is still {job['state']}")

    def _deaths(self) -> None:
        """I8: the dead say why, and only the poisoned die."""
        tries = Counter(i["failures"] for i in self._images if i["state"] == "done")
        for failures, count in sorted(tries.items()):
            self.counted[f"done after {failures} losses alone"] = count
        self.counted["most lost tries"] = max(tries, default=0)
        causes = self._causes()
        for cause in causes.values():
            self.counted[f"{LOST_TRY}{cause}"] += 1
        for image in self._images:
            poisoned = image["prompt"].split(" ")[0] in POISON
            if image["state"] == "dead" and not (image["error_code"] and image["error_message"]):
                self._broken("I8", f"image {image['id']} is dead and does not say why")
            if (image["state"] == "dead") != poisoned:
                self._broken(
                    "I8",
                    f"image {image['id']} ({image['prompt']}) is {image['state']}:"
                    f" {image['error_code']}, {image['failures']} failures"
                    f" ({', '.join(causes[a['id']] for a in self._lost_alone(image['id']))})",
                )

    def _lost_alone(self, image_id: int | None = None) -> list[dict[str, Any]]:
        """The attempts of innocent images that were charged with a lost worker."""
        poisoned = {i["id"] for i in self._images if i["prompt"].split(" ")[0] in POISON}
        return [
            attempt
            for attempt in self._attempts
            if attempt["event"] == "lost"
            and attempt["solo"]
            and attempt["image_id"] not in poisoned
            and image_id in (None, attempt["image_id"])
        ]

    def _causes(self) -> dict[int, str]:
        """What befell the worker in the shift of each such attempt, by the raw history."""
        blows = defaultdict(list)
        outages = []
        frozen = {}
        ahead = 0.0
        for event in self._events:
            # Shifts have the database's time, which may have been set ahead.
            at = event["at"] + ahead
            if event["event"].startswith("kill ") and "victim" in event:
                blows[event["victim"]].append((at, "killed"))
            elif event["event"] == "crash":
                blows[event["pid"]].append((at, "killed"))
            elif event["event"] in ("freezes", "freeze renderer"):
                frozen[event["shift"]] = "frozen"
            elif event["event"] in _AWAY:
                outages.append(at)
            elif event["event"] == "clock database":
                ahead += event["ahead"]
        causes = {}
        for attempt in self._lost_alone():
            shift = self._shifts[attempt["shift_id"]]
            begin, end = shift["started_at"].timestamp(), shift["ended_at"].timestamp()
            own = [name for at, name in blows[shift["pid"]] if begin <= at <= end]
            if shift["id"] in frozen:
                own.append(frozen[shift["id"]])
            if not own and any(begin <= at <= end + _OUTAGE_SECONDS for at in outages):
                own.append("the database was away")
            causes[attempt["id"]] = own[-1] if own else "nothing was done to it"
        return causes


class Bucket:
    """The campaign's objects, asked for directly and not through the proxy."""

    def __init__(self, *, endpoint: str, name: str, prefix: str, keys: tuple[str, str]) -> None:
        self._name, self._prefix = name, f"{prefix}/"
        self._client = boto3.Session().client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=keys[0],
            aws_secret_access_key=keys[1],
            config=Config(s3={"addressing_style": "path"}, max_pool_connections=THREADS),
        )

    def keys(self) -> set[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._name, Prefix=self._prefix
        )
        return {
            item["Key"].removeprefix(self._prefix)
            for page in pages
            for item in page.get("Contents", ())
        }

    def get(self, key: str) -> bytes:
        body: bytes = self._client.get_object(Bucket=self._name, Key=self._prefix + key)[
            "Body"
        ].read()
        return body


def _all(connection: psycopg.Connection[Any], query: str) -> list[dict[str, Any]]:
    return list(connection.execute(query).fetchall())


def _spec(image: dict[str, Any]) -> ImageSpec:
    names = ("model", "prompt", "negative_prompt", "seed", "width", "height", "steps", "sampler")
    values = {name: image[name] for name in (*names, "guidance_scale", "weights_digest", "format")}
    return ImageSpec.from_document(values | image["options"])


def main() -> None:
    given = json.load(sys.stdin)
    reference: Mapping[str, Any] = {"pixels": {}, "environments": []}
    if given["reference"] is not None:
        reference = json.loads(Path(given["reference"]).read_text())
    checker = Checker(given["dsn"], Path(given["history"]), reference)
    checker.check(Bucket(**given["bucket"]))
    result = {"violations": checker.violations, "counted": checker.counted}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
