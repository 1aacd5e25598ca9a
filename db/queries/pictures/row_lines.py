"""The line of a manifest's row. Its prompt is stored once: with the row's images."""

from sqlalchemy import ColumnElement, case, func

from imagemill.db.tables import Image, Row


def without_prompt(line: str, prompt: str | None) -> tuple[str, int | None]:
    """What `rows` stores of a line: the rest of it, and where the prompt stood.

    The whole line and None if it does not hold the prompt as it is, or there is none.
    """
    at = line.find(prompt) if prompt else -1
    if prompt is None or at < 0:
        return line, None
    return line[:at] + line[at + len(prompt) :], at


def whole_line() -> ColumnElement[str]:
    """The line as the manifest has it, in a query of a `Row` and one of its images, an `Image`."""
    before = func.substr(Row.verbatim, 1, Row.prompt_at)
    after = func.substr(Row.verbatim, Row.prompt_at + 1)
    return case(
        (Row.prompt_at.is_(None), Row.verbatim),
        else_=before.concat(Image.prompt).concat(after),
    )
