"""TOML files that people write: the settings, the model registry, the defaults of rows."""

from pathlib import Path
from typing import Any

from imagemill.db.utf8 import not_utf8

MOST_BYTES = 1 << 26
"""The size of such a file: one without an end, as a device, must not fill the memory."""


class TomlError(ValueError):
    """A file is no TOML. The message is one line: what was found, and what is expected."""


def load_toml(file: Path) -> dict[str, Any]:
    """The document in a file, with or without a byte order mark.

    Raises `TomlError`, and `OSError` if the file can't be read.
    """
    import tomllib  # noqa: PLC0415  # most commands read no such file

    with file.open("rb") as opened:
        body = opened.read(MOST_BYTES + 1)
    if len(body) > MOST_BYTES:
        raise TomlError(f"more than {MOST_BYTES:,} bytes; a file that somebody wrote")
    try:
        return tomllib.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise TomlError("; ".join(not_utf8(error))) from None
    except tomllib.TOMLDecodeError as error:
        raise TomlError(f"not TOML: {error}; name = value") from None
    except ValueError:  # an integer of thousands of digits
        raise TomlError("a number of thousands of digits; one of fewer digits") from None
    except RecursionError:
        raise TomlError("not TOML: it is nested too deeply; name = value") from None
