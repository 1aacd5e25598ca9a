"""Text that is not UTF-8, or that no database takes, and what is said of it."""

UTF8_TEXT = "UTF-8 text; save the file as UTF-8"
"""What to say is allowed where a text is not UTF-8."""


def not_utf8(
    error: UnicodeDecodeError, *, line: int | None = None, before: int = 0
) -> tuple[str, str]:
    """What to say (found, allowed) of the first byte that could not be decoded.

    `before` is how many bytes of the file came before the decoded ones. Without a `line`, these
    begin with the file's first line.
    """
    byte, offset = error.object[error.start], before + error.start
    line = error.object.count(b"\n", 0, error.start) + 1 if line is None else line
    return f"byte 0x{byte:02x} at offset {offset:,} (line {line:,}) is not UTF-8", UTF8_TEXT


def is_utf8(text: str) -> bool:
    """Whether a text from the command line or a file system was UTF-8, as it has to be in a URL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_storable(text: str) -> bool:
    """Whether every database takes a text, to hold it or to look for it: PostgreSQL takes no NUL,
    and none takes half of a surrogate pair."""
    return "\0" not in text and is_utf8(text)
