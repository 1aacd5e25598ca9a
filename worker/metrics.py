"""What a worker's children measure, for the `/metrics` of their parent.

With `PROMETHEUS_MULTIPROC_DIR` set, as the parent does for them, each child writes its numbers
into a memory-mapped file of its own. The kernel keeps the file when a child is killed, so no kill
loses a count. Without it the numbers are only this process's.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram

REGISTRY = CollectorRegistry()

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_LOAD_SECONDS = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_EIGHTHS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)

IMAGES = Counter(
    "imagemill_worker_images",
    "Pictures that this worker recorded, by model and outcome; `reused` had a file already.",
    ("model", "outcome"),
    registry=REGISTRY,
)
FAILURES = Counter(
    "imagemill_worker_failures",
    "Failures that this worker charged to images, by code and by the image's state after it.",
    ("code", "state"),
    registry=REGISTRY,
)
STAGE_SECONDS = Histogram(
    "imagemill_stage_seconds",
    "Seconds of one stage: claim, encode, store and commit, and render as an image's share of it.",
    ("stage",),
    buckets=_SECONDS,
    registry=REGISTRY,
)
BATCH_FILL = Histogram(
    "imagemill_batch_fill_ratio",
    "The part of the slots that held an image, at each step of the denoiser.",
    buckets=_EIGHTHS,
    registry=REGISTRY,
)
MODEL_LOAD_SECONDS = Histogram(
    "imagemill_model_load_seconds",
    "Seconds that it took to load a model.",
    ("model",),
    buckets=_LOAD_SECONDS,
    registry=REGISTRY,
)
STORED_BYTES = Counter(
    "imagemill_stored_bytes",
    "Bytes of the files that this worker put into the store.",
    registry=REGISTRY,
)
