"""Certificates that a machine remembers, so that a new database need not test again.

Each folder of `imagemill run` has a database of its own, and the test takes as long as rendering
some pictures. A certificate is believed only for the same environment and the same code: the name
of its file is a hash of both. One that does not hold is not kept: it is tested, and warned of, in
each database.
"""

import hashlib
import json
import os
from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from imagemill.db.queries.pictures.environments import CERTIFICATE_VERSION
from imagemill.db.specs import canonical_json

_MOST_BYTES = 1 << 16


class RememberedCertificates:
    """The certificates in `folder`; with None nothing is remembered.

    They spare time and nothing else. So a folder that can't be read or written is no error.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def find(self, environment: dict[str, Any]) -> dict[str, Any] | None:
        """The certificate of an environment's document, as JSON values; None if none is known."""
        if self._folder is None:
            return None
        with suppress(OSError, ValueError, RecursionError):
            file = self._file(self._folder, environment)
            if file.stat().st_size <= _MOST_BYTES:
                found = json.loads(file.read_text("utf-8"))
                if isinstance(found, dict) and found.get("holds") is True:
                    return found
        return None

    def keep(self, environment: dict[str, Any], certificate: dict[str, Any]) -> None:
        """Remember a certificate that holds."""
        if self._folder is None or certificate.get("holds") is not True:
            return
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            new = self._folder / f".{os.getpid()}.new"
            try:
                new.write_text(json.dumps(certificate), "utf-8")
                new.replace(self._file(self._folder, environment))
            finally:
                new.unlink(missing_ok=True)

    @staticmethod
    def _file(folder: Path, environment: dict[str, Any]) -> Path:
        what = canonical_json([environment, CERTIFICATE_VERSION, _code_digest()])
        return folder / f"{hashlib.sha256(what.encode()).hexdigest()}.json"


@cache
def _code_digest() -> str:
    """SHA-256 (hex) of the modules of the GPU side: pixels may depend on each of them."""
    digest = hashlib.sha256()
    root = Path(str(resources.files("imagemill.worker")))
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
