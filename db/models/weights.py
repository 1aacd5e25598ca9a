"""Which files of a model decide its pixels, where they lie, and their digest.

Safetensors only: a pickle (`.bin`, `.ckpt`, `.pt`) can run code when it is read, so a folder that
has nothing else is refused with the command that converts it. No torch here: the control side
resolves a model's name to its digest when a job is submitted.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagemill.db.errors import ModelError

DIGEST_FILE = "imagemill-digests.json"
_PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth"})
_TOKENIZER_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja"})

CONVERT = (
    'convert it once where you trust its source: `python -c "from diffusers import '
    "DiffusionPipeline as P; P.from_pretrained('IN').save_pretrained('OUT')\"`"
)


def hub_cache(configured: Path | None) -> Path:
    """The folder of pulled models: the setting, else the Hugging Face cache of this user."""
    if configured is not None:
        return configured.expanduser()
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return Path(home).expanduser() / "hub"


def snapshot_folder(cache: Path, repository: str, revision: str) -> Path:
    """Where huggingface_hub keeps one revision of a repository."""
    return cache / f"models--{repository.replace('/', '--')}" / "snapshots" / revision


def component_files(folder: Path, variant: str | None, *, weights: bool = True) -> Sequence[Path]:
    """The files of one component (a U-Net, a tokenizer, a scheduler) that decide pixels.

    Without `weights`, its configuration alone. A `ModelError` if weights are there as pickles
    alone.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    chosen = choose_files(names, variant, where=str(folder))
    for name in chosen:
        if name.endswith(".index.json"):
            _check_index(folder / name)
    return [folder / name for name in chosen if weights or not name.endswith(".safetensors")]


def _check_index(file: Path) -> None:
    """Refuse a list of shards that names anything but safetensors files beside it.

    diffusers and transformers load whatever it names, a pickle as a pickle.
    """
    try:
        shards = set(json.loads(file.read_text("utf-8"))["weight_map"].values())
        plain = all(Path(name).name == name and name.endswith(".safetensors") for name in shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{file}: not a list of shards") from None
    if not plain:
        raise ModelError(
            f"{file} names weights that are not .safetensors files beside it; a pickle can run code"
        )


def choose_files(names: Sequence[str], variant: str | None, *, where: str) -> Sequence[str]:
    """Of the file names in a component's folder those that are loaded.

    Of weights in several precisions only those that `variant` selects. A `ModelError` that names
    `where` if weights are there as pickles alone.
    """
    chosen = [name for name in names if Path(name).suffix in _TOKENIZER_SUFFIXES]
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        if any(Path(name).suffix in _PICKLES for name in names):
            raise ModelError(f"{where}: only pickled weights, which can run code; {CONVERT}")
        return chosen
    marked = [name for name in weights if variant and f".{variant}" in name]
    # As diffusers names them: no marker means the plain precision.
    plain = [name for name in weights if name.count(".") == 1]
    return chosen + (marked or plain or weights)


def digest_of_files(files: Mapping[str, Path], cache: Path) -> str:
    """SHA-256 (hex) over (relative name, SHA-256 of the content) in the names' order.

    A file's hash is remembered by (path, size, modification time in ns) in `cache`, where that
    can be written: gigabytes are read once.
    """
    remembered = _read_remembered(cache)
    known = dict(remembered)
    digest = hashlib.sha256()
    for name in sorted(files):
        path = files[name]
        status = path.stat()
        key = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
        if key not in known:
            known[key] = file_digest(path)
        digest.update(f"{name}\0{known[key]}\n".encode())
    if known != remembered:
        _remember(cache, known)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_remembered(cache: Path) -> dict[str, str]:
    try:
        document = json.loads((cache / DIGEST_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _remember(cache: Path, known: Mapping[str, str]) -> None:
    target = cache / DIGEST_FILE
    beside = target.with_suffix(f".{os.getpid()}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(dict(known), indent=0, sort_keys=True), "utf-8")
        beside.replace(target)
    except OSError:
        # A read-only cache costs the next process the same reading, nothing else.
        return
