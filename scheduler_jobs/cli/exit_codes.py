"""How a command ends: the exit codes, and one line for every error.

0    done
1    the command worked, the work did not: some images are dead, something differs
2    what was asked for can't be done as asked: usage, settings, a bad manifest, no such job
3    a service did not answer: database, broker, storage; or the disk is full
70   an error that nobody foresaw (EX_SOFTWARE of sysexits.h)
130  Ctrl-C
141  nobody reads the output any more (`| head`); a shell reports SIGPIPE like that
"""

import errno
import json
import os
from pathlib import Path
from typing import Any

import click

from imagemill.db.documents import document as document_of
from imagemill.db.errors import ImagemillError, ManifestError, ServiceError, UsageError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SERVICE = 3
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_UNREAD = 141

_OF_A_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Of these a service, the disk, is the cause."""

_OF_A_PATH = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR}
    | {errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTEMPTY, errno.EBUSY}
)
"""Of these the name that was given, or who asks."""

_GPU_SIDE = frozenset({"torch", "diffusers", "transformers", "safetensors"})
"""What an installation of the control side alone does not have."""

SHOWN_PROBLEMS = 20
"""The most bad rows of a manifest that are shown; `--json` has all of them."""


def report(error: Exception, *, as_json: bool) -> int:
    """Print an error as one line and, with `--json`, as an object; return the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return EXIT_USAGE
    code, document = _described(error)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
    problems = document.get("problems", ())
    several = isinstance(error, ManifestError)  # flags and defaults files: a line for each
    lines = document["message"].splitlines() if several else [document["message"]]
    for problem in getattr(error, "problems", ())[:SHOWN_PROBLEMS]:
        if str(problem) not in lines:
            click.echo(_one_line(str(problem)), err=True)
    if len(problems) > SHOWN_PROBLEMS:
        click.echo(f"… and {len(problems) - SHOWN_PROBLEMS:,} more (--json lists all)", err=True)
    for text in lines:
        click.echo(f"error: {_one_line(text)}", err=True)
    if as_json:
        click.echo(json.dumps({"error": document}, default=str))
    return code


def unwritable(file: Path, error: Exception) -> ImagemillError:
    """The error for a file that can't be written: the disk's fault, or that of the name."""
    number = error.errno if isinstance(error, OSError) else None
    kind = ServiceError if number in _OF_A_DISK else UsageError
    return kind(f"{file}: can't be written: {os.strerror(number) if number else error}")


def _described(error: Exception) -> tuple[int, dict[str, Any]]:
    if isinstance(error, click.ClickException):
        return error.exit_code, {"code": "usage", "message": error.format_message()}
    if isinstance(error, ImagemillError):
        document: dict[str, Any] = {"code": error.code, "message": error.message}
        problems = getattr(error, "problems", ())
        if problems:
            document["problems"] = [document_of(problem) for problem in problems]
        return error.exit_code, document
    if isinstance(error, OSError) and error.errno in _OF_A_DISK | _OF_A_PATH:
        return _of_the_system(error)
    if isinstance(error, ModuleNotFoundError) and error.name in _GPU_SIDE:
        said = (
            f"this needs {error.name}; install imagemill with its GPU side: pip install imagemill"
        )
        return EXIT_USAGE, {"code": "usage", "message": said}
    if isinstance(error, UnicodeEncodeError) and "surrogate" in error.reason:
        # Python's mark of a byte that is no UTF-8, in a word of the command line: what comes from
        # files was checked. The text itself may be an address with a password.
        byte = ord(error.object[error.start]) & 0xFF
        said = f"a text or a name on the command line is not UTF-8 (byte 0x{byte:02x})"
        return EXIT_USAGE, {"code": "usage", "message": said}
    message = (
        f"{type(error).__name__}: {error} (this is a bug in imagemill; "
        "`imagemill --verbose …` shows where)"
    )
    return EXIT_BUG, {"code": "bug", "message": message}


def _of_the_system(error: OSError) -> tuple[int, dict[str, Any]]:
    """The machine's trouble, wherever it was met: no bug of ours, and its own words say it."""
    if error.errno == errno.ENOENT and "temporary directory" in (error.strerror or ""):
        # Python tries to write into each of its folders, and says that there is none.
        said = "no temporary folder can be written: the disk is full, or TMPDIR names a wrong place"
        return EXIT_SERVICE, {"code": "system", "message": said}
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    code = EXIT_SERVICE if error.errno in _OF_A_DISK else EXIT_USAGE
    return code, {"code": "system", "message": f"{where}{os.strerror(error.errno or 0)}"}


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
