"""Where a new model's files are: a folder, or a repository of the Hugging Face Hub.

Only names, sizes, configurations and the headers of weights are read. Of a repository, the
configurations are fetched into a temporary folder, never into the model cache: there a revision
without its weights would count as pulled.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagemill.db.errors import ModelError
from imagemill.db.models.headers import read_header
from imagemill.db.models.sources import is_hub_id
from imagemill.db.process.owned_folder import temporary_folder

_MOST_CONFIGS = 200
_MOST_CONFIG_BYTES = 1 << 24
_CONFIGS = ("config.json", "model_index.json", "scheduler_config.json", "tokenizer_config.json")
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A new model's files.

    - `root`: a folder with at least its configurations.
    - `sizes`: bytes of every file, by its path below the root.
    - `hub_name`, `revision`, `license`: what the Hub says; None for a folder.
    """

    root: Path
    sizes: Mapping[str, int]
    hub_name: str | None = None
    revision: str | None = None
    license: str | None = None

    def weights_dtype(self, file: str) -> str | None:
        """The type of most numbers in a safetensors file (`F32`, `BF16`); None if it has none."""
        if self.hub_name is None:
            return _most(read_header(self.root / file))
        from huggingface_hub import HfApi  # noqa: PLC0415  # slow to load

        from imagemill.db.models.hub_errors import asking_the_hub  # noqa: PLC0415  # as above

        with asking_the_hub(self.hub_name, self.revision):
            found = HfApi(endpoint=_endpoint()).parse_safetensors_file_metadata(
                self.hub_name, file, revision=self.revision
            )
        counts = found.parameter_count
        return max(counts, key=lambda dtype: counts[dtype]) if counts else None


@contextmanager
def open_source(text: str, *, revision: str | None) -> Iterator[Source]:
    """The source that a user names: a folder if there is one, else a Hub id.

    `revision` is a branch, a tag or a commit; without one, the default branch. Raises
    `ModelError` if there is no such folder or repository, or if the Hub does not answer.
    """
    folder = Path(text).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(f"{text}: a folder has no revision")
        yield Source(root=folder, sizes=_sizes(folder))
        return
    if text.endswith(".gguf"):
        raise ModelError(
            f"{text}: a .gguf file has the weights of one component: add its model, then name the "
            "file in the entry's parts (docs/models.md, quantised weights)"
        )
    if not is_hub_id(text):
        raise ModelError(f"{text}: no such folder or file, and no Hub id (owner/name)")
    with temporary_folder("imagemill-model-") as temporary:
        yield _on_the_hub(text, revision, temporary)


def _most(header: Mapping[str, Any]) -> str | None:
    counts: dict[str, int] = {}
    for name, about in header.items():
        if name == "__metadata__" or not isinstance(about, dict):
            continue
        begin, end = about.get("data_offsets", (0, 0))
        dtype = str(about.get("dtype"))
        counts[dtype] = counts.get(dtype, 0) + end - begin
    return max(counts, key=lambda dtype: counts[dtype]) if counts else None


def _sizes(folder: Path) -> dict[str, int]:
    """The files of a folder and of the folders in it, one level deep as components lie."""
    found = {}
    for pattern in ("*", "*/*"):
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = path.stat().st_size
    return found


def _on_the_hub(name: str, revision: str | None, folder: Path) -> Source:
    from huggingface_hub import HfApi, hf_hub_download  # noqa: PLC0415  # slow to load
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415  # as above

    from imagemill.db.models.hub_errors import asking_the_hub  # noqa: PLC0415  # as above

    disable_progress_bars()
    with asking_the_hub(name, revision):
        info = HfApi(endpoint=_endpoint()).model_info(name, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        configs = [each for each in sizes if _is_config(each, sizes[each])]
        if len(configs) > _MOST_CONFIGS:
            raise ModelError(f"{name}: {len(configs)} configurations; a model has a few")
        for each in configs:
            hf_hub_download(name, each, revision=info.sha, local_dir=folder, endpoint=_endpoint())
    if info.sha is None:
        raise ModelError(f"{name}: the Hub does not say which commit {revision or 'main'} is")
    card = info.card_data
    told = None if card is None else card.get("license_name") or card.get("license")
    return Source(
        root=folder,
        sizes=sizes,
        hub_name=name,
        revision=info.sha,
        license=told if isinstance(told, str) and _LICENSE.fullmatch(told) else None,
    )


def _endpoint() -> str | None:
    """The Hub's address: the client reads the variable only when it is imported."""
    return os.environ.get("HF_ENDPOINT")


def _is_config(name: str, size: int) -> bool:
    """Whether a file tells of a component; deeper folders are copies, such as training runs."""
    parts = name.split("/")
    return len(parts) <= 2 and parts[-1] in _CONFIGS and size <= _MOST_CONFIG_BYTES
