"""What a person names: a file, a folder, a pattern of paths, a sheet or a split behind a `#`."""

import glob
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagemill.db.errors import ManifestError
from imagemill.scheduler_jobs.manifest.problems import shown

_SIGNS = frozenset("*?[")
_MOST_STATE_BYTES = 1 << 24
_SHOWN_SPLITS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A file to read. `part` is the sheet that is meant; `whole`: the file is one prompt."""

    name: str
    path: Path
    part: str | None = None
    whole: bool = False


def find_places(text: str) -> list[Place]:
    """The files that a path, a pattern or a folder stands for, in order.

    A folder is a data set that Hugging Face's `save_to_disk` wrote, or prompts in `.txt` files.
    What is no pattern and no folder comes back as it is, whether there is such a file or not.

    Raises:
        ManifestError: a pattern that fits no file, or a folder that holds neither.
    """
    path = Path(text)
    if _exists(path):
        return _folder(text, path, None) if path.is_dir() else [Place(name=text, path=path)]
    if _SIGNS.intersection(text):
        # Path.glob takes no pattern that begins with a folder of its own.
        names = glob.glob(text, recursive=True)  # noqa: PTH207
        found = sorted(filter(_is_file, map(Path, names)))
        if found:
            return [Place(name=str(each), path=each) for each in found]
    name, sign, part = text.rpartition("#")
    if sign and _exists(Path(name)):
        # Not before the text was tried as it stands: a file's name may hold a `#`.
        if Path(name).is_dir():
            return _folder(name, Path(name), part)
        return [Place(name=text, path=Path(name), part=part)]
    if _SIGNS.intersection(text):
        raise ManifestError(f"{text}: no file fits this pattern")
    return [Place(name=text, path=path)]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a NUL: opening it says which
        return False


def _is_file(path: Path) -> bool:
    return path.is_file()


def _folder(name: str, path: Path, split: str | None) -> list[Place]:
    try:
        if (path / "dataset_dict.json").is_file():
            path = path / _split(name, path, split)
        elif split is not None:
            raise ManifestError(f"{name}: a folder without splits; the folder's name alone")
        if (path / "state.json").is_file():
            return _shards(name, path)
        prompts = sorted(
            each
            for each in path.iterdir()
            if each.suffix.lower() == ".txt" and not each.name.startswith(".") and each.is_file()
        )
    except OSError as error:
        raise ManifestError(f"{name}: can't be read: {error.strerror}") from None
    if not prompts:
        raise ManifestError(
            f"{name}: a folder without prompts in .txt files and without a saved data set; "
            f"name its files, such as '{Path(name) / '*.csv'}'"
        )
    return [Place(name=str(each), path=each, whole=True) for each in prompts]


def _split(name: str, path: Path, wanted: str | None) -> str:
    """The folder of a split of a saved `DatasetDict`."""
    splits = [each for each in _document(name, path / "dataset_dict.json", "splits") if each]
    if wanted is None and len(splits) == 1:
        return _inside(name, splits[0])
    if wanted is None or wanted not in splits:
        listed = ", ".join(str(each) for each in splits[:_SHOWN_SPLITS])
        found = "several splits" if wanted is None else f"no split {shown(wanted)}"
        raise ManifestError(f"{name}: {found}; '{name}#SPLIT' with one of {listed}")
    return _inside(name, wanted)


def _shards(name: str, path: Path) -> list[Place]:
    """The Arrow files of a saved `Dataset`, in its order."""
    files = _document(name, path / "state.json", "_data_files")
    names = [each.get("filename") if isinstance(each, dict) else each for each in files]
    if not names:
        raise ManifestError(f"{name}: a saved data set without files; at least one")
    paths = [path / _inside(name, each) for each in names]
    return [Place(name=str(each), path=each) for each in paths]


def _document(name: str, path: Path, key: str) -> list[Any]:
    """A list in a data set's description."""
    with path.open("rb") as stream:
        body = stream.read(_MOST_STATE_BYTES)
    try:
        found = json.loads(body)[key]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise ManifestError(f"{name}: {path.name} does not say {key}; a saved data set")
    return found


def _inside(name: str, file: Any) -> str:
    """A name that a data set's description gives, if it is one of its own folder."""
    if not isinstance(file, str) or Path(file).name != file or "\0" in file:
        raise ManifestError(f"{name}: names {shown(file)}; a file of the folder")
    return file
