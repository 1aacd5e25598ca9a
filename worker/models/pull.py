"""Fetching a registered model from the Hugging Face Hub, at its pinned revision.

Only the files that are loaded: no pickles, no other precisions, no safety checker. What was
fetched is named by its weights digest from then on.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from imagemill.db.errors import ModelError, first_line
from imagemill.db.models.components import NO_PIXELS, weights_digest
from imagemill.db.models.registry import ModelEntry, Part
from imagemill.db.models.weights import choose_files
from imagemill.db.settings import Settings

_INDEX = "model_index.json"
_DIGEST_LINE = re.compile(r"^digest\s*=", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """A model that is here now: its digest, and how many files of how many bytes it is."""

    name: str
    weights_digest: str
    files: int
    size: int


def pull(entry: ModelEntry, settings: Settings, *, endpoint: str | None = None) -> Pulled:
    """Fetch what of a model is on the Hub, into the model cache; what is there already stays.

    `endpoint` is the Hub's address, if it is not the usual one (or `HF_ENDPOINT`). The token is
    `HF_TOKEN` or the one that `hf auth login` keeps. A `ModelError` in one line where the model
    is gated, missing, pickled, or the Hub does not answer.
    """
    paths: set[Path] = set()
    for part in entry.hub_parts:
        where = f"model {entry.name}: {part.source}"
        try:
            paths |= _pull_part(entry, part, endpoint, where)
        except GatedRepoError:
            raise ModelError(
                f"{where} is gated: accept its conditions on its page, and set HF_TOKEN"
            ) from None
        except RevisionNotFoundError:
            raise ModelError(f"{where} has no revision {part.revision}") from None
        except RepositoryNotFoundError:
            raise ModelError(
                f"{where}: there is no such model, or it is private: set HF_TOKEN"
            ) from None
        except HfHubHTTPError as error:
            raise ModelError(f"{where}: {first_line(error)}") from error
        except ModelError:
            raise
        except Exception as error:  # the transport's own errors: its library has changed before
            raise ModelError(f"{where}: the Hub can't be reached: {first_line(error)}") from error
    return Pulled(
        name=entry.name,
        weights_digest=weights_digest(entry),
        files=len(paths),
        size=sum(path.stat().st_size for path in paths),
    )


def record_digest(registry_file: Path, name: str, digest: str) -> bool:
    """Write a model's digest into its table of the registry file, unless one is there.

    Whether the file has the digest now; False if the model has no `[models.NAME]` table of its
    own to write into.
    """
    text = registry_file.read_text("utf-8")
    header = re.search(
        rf'^\[models\.(?:"{re.escape(name)}"|{re.escape(name)})\][^\n]*\n', text, re.M
    )
    if header is None:
        return False
    following = re.search(r"^\s*\[", text[header.end() :], re.M)
    end = len(text) if following is None else header.end() + following.start()
    table = text[header.end() : end]
    if _DIGEST_LINE.search(table):
        return digest in table
    written = text[: header.end()] + f'digest = "{digest}"\n' + text[header.end() :]
    registry_file.write_text(written, "utf-8")
    return True


def _pull_part(entry: ModelEntry, part: Part, endpoint: str | None, where: str) -> set[Path]:
    listed = HfApi(endpoint=endpoint).list_repo_files(part.source, revision=part.revision)
    components: Set[str] = frozenset()
    if part.source == entry.source and _INDEX in listed:
        components = _components(entry, part, endpoint, where)
    wanted = _wanted_files(entry, part, listed, components, where)
    root = snapshot_download(
        part.source,
        revision=part.revision,
        cache_dir=entry.cache,
        endpoint=endpoint,
        allow_patterns=sorted(wanted),
    )
    return {Path(root) / name for name in wanted}


def _components(entry: ModelEntry, part: Part, endpoint: str | None, where: str) -> set[str]:
    """The folders that the repository's index names, those that no entry loads left out.

    A repository may hold more: other precisions, an ONNX copy, a prior, checkpoints of training.
    """
    file = hf_hub_download(
        part.source,
        _INDEX,
        revision=part.revision,
        cache_dir=entry.cache,
        endpoint=endpoint,
    )
    try:
        index = json.loads(Path(file).read_text("utf-8"))
        # A component is [library, class]; [null, null] is one that this pipeline does without.
        named = {name for name, value in index.items() if isinstance(value, list) and value[0]}
    except (ValueError, AttributeError, IndexError) as error:
        raise ModelError(f"{where}: {_INDEX} can't be read: {first_line(error)}") from None
    return named - entry.parts.keys() - NO_PIXELS


def _wanted_files(
    entry: ModelEntry, part: Part, listed: list[str], components: Set[str], where: str
) -> set[str]:
    """The files of a repository that the entry loads from it."""
    folders: Mapping[str, list[str]] = defaultdict(list)
    for name in listed:
        path = PurePosixPath(name)
        folders["" if len(path.parts) == 1 else str(path.parent)].append(path.name)
    if part.source == entry.source:
        wanted = {_INDEX} & set(folders[""])
        own = components if wanted else {""}
        variant = entry.variant
    else:
        own, wanted, variant = {part.subfolder}, set(), part.variant
    for folder in sorted(own):
        if folder not in folders:
            raise ModelError(f"{where} has no folder {folder}")
        chosen = choose_files(sorted(folders[folder]), variant, where=f"{where}/{folder}")
        wanted |= {f"{folder}/{name}" if folder else name for name in chosen}
    return wanted
