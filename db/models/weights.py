"""The files of a model that decide its pixels, and their digest.

Only safetensors are accepted. A pickle (`.bin`, `.ckpt`, `.pt`) can run code when it is read, so a
folder that has only pickles is refused, with the command that converts them. This module needs no
torch, because `submit` computes a model's digest on machines without it.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imagemill.db.errors import ModelError, first_line

DIGEST_FILE = "imagemill-digests.json"
_MOST_CONFIG_BYTES = 1 << 24
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
    """The folder in which huggingface_hub keeps one revision of a repository."""
    return cache / f"models--{repository.replace('/', '--')}" / "snapshots" / revision


def component_files(folder: Path, variant: str | None, *, weights: bool = True) -> Sequence[Path]:
    """The files of one component (a U-Net, a tokenizer, a scheduler) that decide pixels.

    With `weights` False, only its configuration. Raises `ModelError` if there are weights, but
    only as pickles.
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
    """Raise `ModelError` unless a list of shards names only safetensors files beside it.

    diffusers and transformers load any file that it names, even a pickle.
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
    """The file names in a component's folder that will be loaded.

    If there are weights in several precisions, `variant` selects one. Raises `ModelError`, which
    names `where`, if there are weights only as pickles.
    """
    chosen = [name for name in names if Path(name).suffix in _TOKENIZER_SUFFIXES]
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        if any(Path(name).suffix in _PICKLES for name in names):
            raise ModelError(f"{where}: only pickled weights, which can run code; {CONVERT}")
        return chosen
    marked = [name for name in weights if variant and f".{variant}" in name]
    # In diffusers' names, a file without a marker has the plain precision.
    plain = [name for name in weights if name.count(".") == 1]
    return chosen + (marked or plain or weights)


def digest_of_files(files: Mapping[str, Path], cache: Path) -> str:
    """SHA-256 (hex) over (relative name, SHA-256 of the content), sorted by name.

    The hash of each file is kept in `cache`, by path, size and modification time in ns: so
    gigabytes are read only once.
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


def read_config(folder: Path, name: str = "config.json") -> Mapping[str, Any]:
    """A component's configuration; empty if the file is not there."""
    path = folder / name
    if not path.is_file():
        return {}
    if path.stat().st_size > _MOST_CONFIG_BYTES:
        raise ModelError(f"{path}: more than {_MOST_CONFIG_BYTES:,} bytes, for a configuration")
    try:
        document = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON: {first_line(error)}") from None
    return document if isinstance(document, dict) else {}


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
        # If the cache is read-only, the next process reads the files again. No other harm.
        return
