"""The folder of `imagemill run`. It is made, or refused in one line, before anything else."""

import os
import tempfile
from pathlib import Path

from imagemill.db.errors import UsageError
from imagemill.db.settings import DATABASE_FILE, OBJECTS_FOLDER

_FOLDERS = (OBJECTS_FOLDER, "pictures", "broker")
_FILES = (DATABASE_FILE, "contact-sheet.png", "worker.log")


def make_folder(out: Path) -> None:
    """Create the folder and test whether files can be made in it.

    Raises `UsageError` if it can't be used; the error names what is in the way.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in _FOLDERS:
            if (out / name).exists() and not (out / name).is_dir():
                raise UsageError(f"--out {out}: {name} is a file there, and must be a folder")
        for name in _FILES:
            if (out / name).is_dir():
                raise UsageError(f"--out {out}: {name} is a folder there, and must be a file")
        with tempfile.TemporaryFile(dir=out, prefix=".imagemill-") as probe:
            probe.write(b"0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except FileExistsError:
        raise UsageError(f"--out {out}: there is a file of that name") from None
    except NotADirectoryError:
        raise UsageError(f"--out {out}: a part of this path is a file") from None
    except OSError as error:
        raise UsageError(
            f"--out {out}: can't be written: {error.strerror}; name a folder that you may write to"
        ) from None
