"""What torch.compile made, shared between workers through the store (`compile_cache = true`).

torch writes what it compiled as bytes, and reads them in another process before it compiles. These
bytes are unpickled and hold programs, so who can write to the store could run code in workers:
that is why nobody shares kernels unless the setting says so.
"""

import logging

import torch

from imagemill.db.errors import ObjectConflict, StorageError
from imagemill.db.settings import Settings
from imagemill.db.storage import Storage
from imagemill.db.storage.keys import KERNELS
from imagemill.worker.models.environment import Environment

log = logging.getLogger(__name__)

MOST_BYTES = 2 * 2**30
"""More than any model's kernels take; a larger object is not fetched."""


class SharedKernels:
    """The kernels of environments in a store. `fetch` before the first pass, `share` after it.

    Kernels are kept by the environment's fingerprint, which has the versions, the device, the
    weights, the tuning and the shapes. A store that fails costs only the time to compile.
    """

    def __init__(self, settings: Settings, storage: Storage) -> None:
        compiles = settings.compile or settings.compile_regions or settings.compile_vae
        self._storage = storage if settings.compile_cache and compiles else None
        self._known: set[str] = set()

    def fetch(self, environment: Environment) -> bool:
        """Give torch the kernels of an environment; whether there were any that it can use."""
        key = _key(environment)
        if self._storage is None or key in self._known:
            return False
        try:
            stored = self._storage.stat(key)
            if stored is None:
                return False
            self._known.add(key)
            if stored.size > MOST_BYTES:
                log.warning("%s has %s bytes: these are no kernels of ours", key, stored.size)
                return False
            body = self._storage.get(key)
        except StorageError as error:
            log.warning("no shared kernels, they are compiled: %s", error)
            return False
        # None if the bytes are damaged. Kernels of another version of torch are left unused.
        found = torch.compiler.load_cache_artifacts(body) is not None
        if found:
            log.info("took compiled kernels from %s (%.1f MB)", key, len(body) / 1e6)
        return found

    def share(self, environment: Environment) -> bool:
        """Store what this process compiled, unless the environment's kernels are there already."""
        key = _key(environment)
        if self._storage is None or key in self._known:
            return False
        compiled = torch.compiler.save_cache_artifacts()
        if compiled is None:
            return False
        body, _ = compiled
        self._known.add(key)
        try:
            created = self._storage.put(key, body, media_type="application/octet-stream")
        except ObjectConflict:
            # Another worker was first. It compiled the same, but not to the same bytes.
            return False
        except StorageError as error:
            log.warning("compiled kernels can't be shared: %s", error)
            return False
        log.info("shared compiled kernels as %s (%.1f MB)", key, len(body) / 1e6)
        return created


def _key(environment: Environment) -> str:
    return f"{KERNELS}/{environment.fingerprint()}.bin"
