"""What the client of the Hugging Face Hub raises, as one line that says what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from imagemill.db.errors import ModelError, first_line

_OF_THE_DISK = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS}
    | {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
)
"""Errors of the disk, where the others are those of the network."""


@contextmanager
def asking_the_hub(where: str, revision: str | None) -> Iterator[None]:
    """Raise `ModelError`, which names `where`, for whatever the Hub's client raises within.

    Errors of the disk stay as they are, because their own words name the file.
    """
    try:
        yield
    except GatedRepoError:
        raise ModelError(
            f"{where} is gated: accept its conditions on its page, and set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise ModelError(f"{where} has no revision {revision}") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"{where}: there is no such model, or it is private: set HF_TOKEN"
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        raise ModelError(f"{where}: {first_line(error)}") from error
    except ModelError:
        raise
    except OSError as error:
        if error.errno in _OF_THE_DISK:
            raise
        raise ModelError(f"{where}: the Hub can't be reached: {first_line(error)}") from error
    except Exception as error:  # the HTTP library's errors; the Hub's client has changed it
        if os.strerror(errno.ENOSPC) in str(error):  # of hf_xet, which knows no `OSError`
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise ModelError(f"{where}: the Hub can't be reached: {first_line(error)}") from error
