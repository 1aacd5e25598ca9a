"""C2PA manifests in copies of pictures, signed with the user's own certificate, without a network.

A manifest says that a trained model created the picture, with which software, and from which
stored file; whoever has the picture can check it: `c2patool`, contentcredentials.org/verify.
Every signature is made anew, so signed copies never have the same bytes twice.
Sources: C2PA specification 2.2 (claims, assertions, credentials); c2pa-python.
"""

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from imagemill.db.errors import UsageError, first_line
from imagemill.db.provenance import SOURCE_TYPE

_ALGORITHMS: Mapping[bytes, str] = MappingProxyType(
    {
        bytes.fromhex("06082a8648ce3d030107"): "es256",
        bytes.fromhex("06052b81040022"): "es384",
        bytes.fromhex("06052b81040023"): "es512",
        bytes.fromhex("06032b6570"): "ed25519",
        bytes.fromhex("06092a864886f70d010101"): "ps256",
    }
)
"""Signature algorithms by the kind of key: its object identifier as DER has it (RFC 5480, 8410)."""

_SETTINGS = {"builder": {"thumbnail": {"enabled": False}}}
"""A thumbnail would be larger than many a picture, and is of use where pictures are edited."""

_PKCS8 = re.compile(r"-----BEGIN PRIVATE KEY-----([^-]+)-----END PRIVATE KEY-----")


@dataclass(frozen=True, kw_only=True, slots=True)
class C2paSigner:
    """A certificate chain (PEM, its own first) with its private key, which is never shown."""

    certificates: str = field(repr=False)
    key: str = field(repr=False)
    algorithm: str

    @classmethod
    def from_files(cls, certificates: Path, key: Path) -> "C2paSigner":
        """The signer of two PEM files. A `UsageError` if they can't sign, found out by signing."""
        try:
            chain, private = certificates.read_text("ascii"), key.read_text("ascii")
        except OSError as error:
            raise UsageError(f"--c2pa: {error.filename}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"--c2pa: {first_line(error)}") from None
        signer = cls(certificates=chain, key=private, algorithm=_algorithm(private, key))
        blank = io.BytesIO()
        Image.new("RGB", (8, 8)).save(blank, "PNG")
        signer.signed(blank.getvalue(), "image/png", made_by="test", source_sha256="0" * 64)
        return signer

    def document(self) -> dict[str, str]:
        """What the record of an export says of it: the certificate's hash, never the key."""
        digest = hashlib.sha256(self.certificates.encode()).hexdigest()
        return {"certificates_sha256": digest, "algorithm": self.algorithm}

    def signed(self, body: bytes, media_type: str, *, made_by: str, source_sha256: str) -> bytes:
        """A picture's file with a manifest. `made_by` is the model that drew it."""
        c2pa = _library()
        info = c2pa.C2paSignerInfo(
            self.algorithm.encode(), self.certificates.encode(), self.key.encode(), None
        )
        target = io.BytesIO()
        try:
            manifest = json.dumps(_manifest(media_type, made_by, source_sha256))
            with (
                c2pa.Signer.from_info(info) as signer,
                c2pa.Context.from_dict(_SETTINGS) as context,
                c2pa.Builder(manifest, context) as builder,
            ):
                builder.sign(signer, media_type, io.BytesIO(body), target)
        except c2pa.C2paError as error:
            raise UsageError(f"--c2pa: {first_line(error)}") from error
        return target.getvalue()


def _manifest(media_type: str, made_by: str, source_sha256: str) -> dict[str, Any]:
    version = metadata.version("imagemill")
    created = {
        "action": "c2pa.created",
        "digitalSourceType": SOURCE_TYPE,
        "softwareAgent": {"name": made_by},
        "parameters": {"imagemill.source_sha256": source_sha256},
    }
    return {
        "claim_generator_info": [{"name": "imagemill", "version": version}],
        "format": media_type,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }


def _algorithm(private: str, file: Path) -> str:
    found = _PKCS8.search(private)
    try:
        body = base64.b64decode(found[1]) if found else b""
    except ValueError:
        body = b""
    for identifier, algorithm in _ALGORITHMS.items():
        if identifier in body[:64]:
            return algorithm
    raise UsageError(
        f"--c2pa-key: {file}: expected a private key for {', '.join(_ALGORITHMS.values())}, in "
        "PKCS#8 and not encrypted (-----BEGIN PRIVATE KEY-----)"
    )


def _library() -> Any:
    try:
        import c2pa  # noqa: PLC0415  # an extra
    except ModuleNotFoundError:
        raise UsageError("--c2pa needs c2pa-python: pip install imagemill[provenance]") from None
    return c2pa
