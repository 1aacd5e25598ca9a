"""Uploading an export to the Hugging Face Hub, file by file what is not there yet.

Files go up in batches, a commit each. So an interrupted push goes on where it stopped, also where
the client's own `upload_folder` would begin again (without hf_xet). The card comes last: a set
that is not whole does not look whole.
"""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.db.errors import HubError, ImagemillError, UsageError, first_line
from imagemill.scheduler_jobs.exports.about.card import CARD
from imagemill.scheduler_jobs.exports.about.croissant import CROISSANT
from imagemill.scheduler_jobs.exports.record import RECORD
from imagemill.scheduler_jobs.exports.sums import SUMS, read_sums
from imagemill.scheduler_jobs.exports.target import UNFINISHED

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

log = logging.getLogger(__name__)

BATCH_FILES = 1000
"""Files in one commit. The Hub takes some hundred commits an hour."""

BATCH_BYTES = 5 << 30
_LAST = (CROISSANT, SUMS, RECORD, CARD)
_THE_HUBS_OWN = frozenset({".gitattributes"})
_CHUNK_BYTES = 1 << 20
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class PushResult:
    """What a push did: files that went up, that were there, that were removed; and where to."""

    url: str
    repository: str
    branch: str
    uploaded: int
    uploaded_bytes: int
    present: int
    deleted: int


def push(
    folder: Path,
    repository: str,
    *,
    branch: str,
    private: bool,
    delete_others: bool,
    progress: Callable[[int, int], None],
    endpoint: str | None = None,
) -> PushResult:
    """Upload an export to a data-set repository `user/name`, which is created if it is missing.

    `progress` is told how many files of how many are there. The token is `HF_TOKEN`, or the one
    that `hf auth login` stored; the Hub is `endpoint`, else `HF_ENDPOINT`, else the public one.

    Raises:
        UsageError: the folder is no whole export, its files are not the recorded ones, the Hub
            does not let this user do it, or the repository holds other files.
        HubError: the Hub does not answer.
    """
    sums = checked_files(folder)
    from huggingface_hub import HfApi, get_token  # noqa: PLC0415  # slow to load

    if not get_token():
        raise UsageError("no token for the Hub: set HF_TOKEN, or run `hf auth login`")
    api = HfApi(endpoint=endpoint)
    with _one_line(repository, branch):
        remote = _open_repository(api, repository, branch=branch, private=private)
        others = sorted(remote.keys() - sums.keys() - _THE_HUBS_OWN)
        if others and not delete_others:
            raise UsageError(
                f"{repository} ({branch}) holds {len(others):,} files that are not of this export "
                f"({', '.join(others[:_SHOWN])}{', …' * (len(others) > _SHOWN)}); choose another "
                "repository or --branch, or remove them in the same push with --delete-others"
            )
        lacking = [name for name in _in_order(sums) if not _is_there(folder, name, sums, remote)]
        present = len(sums) - len(lacking)
        progress(present, len(sums))
        uploaded_bytes = 0
        for batch in _batches(folder, lacking):
            last = batch[-1] == lacking[-1]
            _commit(api, repository, branch, folder, batch, others if last else [])
            uploaded_bytes += sum((folder / name).stat().st_size for name in batch)
            present += len(batch)
            progress(present, len(sums))
        if others and not lacking:
            _commit(api, repository, branch, folder, [], others)
    suffix = "" if branch == "main" else f"/tree/{branch}"
    return PushResult(
        url=f"{api.endpoint}/datasets/{repository}{suffix}",
        repository=repository,
        branch=branch,
        uploaded=len(lacking),
        uploaded_bytes=uploaded_bytes,
        present=len(sums) - len(lacking),
        deleted=len(others),
    )


def checked_files(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of every file of a complete export, all of them compared with its list.

    The card may have been edited: people add what only they know. A `UsageError` names the first
    file that is missing, changed, or not of the export.
    """
    if not (folder / RECORD).is_file():
        raise UsageError(f"{folder}: holds no {RECORD}, so it is no export")
    try:
        record = json.loads((folder / RECORD).read_bytes())
        complete, listed = record.get("complete"), (record.get("files") or {}).get("sha256")
    except (ValueError, AttributeError):
        raise UsageError(f"{folder}: its {RECORD} can't be read") from None
    if not complete:
        raise UsageError(f"{folder}: the export is not complete; run the same export again")
    if listed is None:
        raise UsageError(
            f"{folder}: an earlier version of imagemill exported it, without {SUMS}; export it anew"
        )
    if not (folder / SUMS).is_file() or file_sha256(folder / SUMS) != listed:
        raise UsageError(f"{folder}: {SUMS} is not the one that the export wrote")
    sums = read_sums((folder / SUMS).read_bytes())
    there = set(_names(folder))
    for name in sorted(there ^ (sums.keys() | {RECORD, SUMS})):
        problem = "is not of the export" if name in there else "is missing"
        raise UsageError(f"{folder}: {name} {problem}")
    for name, sha256 in sums.items():
        found = file_sha256(folder / name)
        if name == CARD:
            sums[name] = found
        elif found != sha256:
            raise UsageError(f"{folder}: {name} was changed: its SHA-256 is not the exported one")
    return {**sums, SUMS: listed, RECORD: file_sha256(folder / RECORD)}


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _names(folder: Path) -> Iterator[str]:
    for inside, _, files in os.walk(folder):
        for name in files:
            if not name.startswith(UNFINISHED):
                yield (Path(inside) / name).relative_to(folder).as_posix()


def _open_repository(
    api: "HfApi", repository: str, *, branch: str, private: bool
) -> Mapping[str, "RepoFile"]:
    """Create what is missing of repository and branch; the files that are there, by name."""
    from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415  # slow to load

    api.create_repo(repository, repo_type="dataset", private=private or None, exist_ok=True)
    if private and not api.repo_info(repository, repo_type="dataset").private:
        raise UsageError(f"{repository} is there already and public; --private does not change it")
    if branch != "main":
        api.create_branch(repository, branch=branch, repo_type="dataset", exist_ok=True)
    tree = api.list_repo_tree(repository, recursive=True, revision=branch, repo_type="dataset")
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def _in_order(sums: Mapping[str, str]) -> Sequence[str]:
    return [*(name for name in sorted(sums) if name not in _LAST), *_LAST]


def _is_there(
    folder: Path, name: str, sums: Mapping[str, str], remote: Mapping[str, "RepoFile"]
) -> bool:
    """Whether the Hub has this very file: by SHA-256 where it is a large one, else as git's."""
    found = remote.get(name)
    if found is None:
        return False
    if found.lfs is not None:
        return bool(found.lfs.sha256 == sums[name])
    path = folder / name
    if found.size != path.stat().st_size:
        return False
    body = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0%s" % (len(body), body), usedforsecurity=False)
    return bool(found.blob_id == git.hexdigest())


def _batches(folder: Path, names: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for name in names:
        size = (folder / name).stat().st_size
        if batch and (len(batch) >= BATCH_FILES or held + size > BATCH_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(name)
        held += size
    if batch:
        yield batch


def _commit(
    api: "HfApi",
    repository: str,
    branch: str,
    folder: Path,
    names: Sequence[str],
    deleted: Sequence[str],
) -> None:
    """One commit. Where the client's xet does not get through, the same goes by LFS.

    The client takes xet wherever the package hf_xet is there, and never falls back by itself.
    From then on it is off for this process.
    """
    from huggingface_hub import (  # noqa: PLC0415  # slow to load
        CommitOperationAdd,
        CommitOperationDelete,
        constants,
    )
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    def commit() -> None:
        operations: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in deleted]
        operations += [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names
        ]
        api.create_commit(
            repository,
            operations,
            commit_message=f"Add {len(names)} files of an imagemill export",
            repo_type="dataset",
            revision=branch,
        )

    try:
        commit()
    except (HfHubHTTPError, ValueError):
        raise  # what the Hub itself says
    except Exception as error:  # hf_xet raises builtin errors
        if constants.HF_HUB_DISABLE_XET or find_spec("hf_xet") is None:
            raise
        log.warning("uploading by xet failed: %s; going on by LFS", first_line(error))
        constants.HF_HUB_DISABLE_XET = True
        commit()


@contextmanager
def _one_line(repository: str, branch: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one line that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError  # noqa: PLC0415
    from huggingface_hub.utils.tqdm import (  # noqa: PLC0415  # slow to load
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            # Its advice about cards and large folders is written for users of its own commands.
            warnings.simplefilter("ignore")
            yield
    except ImagemillError:
        raise
    except RevisionNotFoundError:
        raise UsageError(f"{repository} has no branch {branch!r}") from None
    except HfHubHTTPError as error:
        raise _refused(repository, error) from error
    except Exception as error:  # the HTTP library's errors; the Hub's client has changed it
        cause = error.__cause__ or error
        if isinstance(error, ValueError):  # what the Hub says of a repository's name, or of a card
            raise UsageError(f"{repository}: {' '.join(str(error).split())}") from error
        if isinstance(cause, HfHubHTTPError):
            raise _refused(repository, cause) from error
        raise HubError(
            f"{repository}: the Hub can't be reached: {first_line(cause)}; the same push goes on "
            "where it stopped"
        ) from error
    finally:
        if bars:
            enable_progress_bars()


def _refused(repository: str, error: Any) -> ImagemillError:
    status = error.response.status_code
    if status == 401:
        return UsageError(
            f"{repository}: the Hub does not know this token (401): set HF_TOKEN, or run "
            "`hf auth login`"
        )
    if status == 403:
        return UsageError(
            f"{repository}: this token may not write there (403): it needs the right to write, "
            "and you that to the namespace"
        )
    if status == 404:
        return UsageError(
            f"{repository}: there is no such repository (404), or this token may not see it"
        )
    said = getattr(error, "server_message", None) or first_line(error)
    told = f"{repository}: the Hub answered {status}: {' '.join(str(said).split())}"
    return UsageError(told) if 400 <= status < 500 and status != 429 else HubError(told)
