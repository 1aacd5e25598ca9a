"""The certificate of a stack that listens for other machines, made once by the command `openssl`.

Nobody has to sign it: the token has its fingerprint, and the other machine compares that.
"""

import hashlib
import shutil
import ssl
import subprocess
from pathlib import Path

from imagemill.db.errors import ServiceError, UsageError
from imagemill.scheduler_jobs.stack.home import StackHome

_DAYS = 3650


def certificate_files(home: StackHome) -> tuple[Path, Path]:
    """The files of the certificate and of its key (PEM)."""
    return home.path / "certificate.pem", home.path / "key.pem"


def make_certificate(home: StackHome) -> None:
    """Make both files, unless they are there. Raises `UsageError` without `openssl`."""
    certificate, key = certificate_files(home)
    if certificate.exists() and key.exists():
        return
    openssl = shutil.which("openssl")
    if openssl is None:
        raise UsageError("--listen needs the command openssl; install the package openssl")
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    about = ["-days", str(_DAYS), "-subj", "/CN=imagemill"]
    done = subprocess.run(  # noqa: S603  # argv is ours, no shell
        [openssl, "req", *kind, *about, "-keyout", key, "-out", certificate],
        umask=0o077,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise ServiceError(f"openssl made no certificate: {said[-1]}")


def fingerprint(certificate: Path) -> str:
    """The fingerprint for the token."""
    return fingerprint_of(ssl.PEM_cert_to_DER_cert(certificate.read_text()))


def fingerprint_of(certificate: bytes) -> str:
    """SHA-256 of a certificate (DER), in hexadecimal digits."""
    return hashlib.sha256(certificate).hexdigest()
