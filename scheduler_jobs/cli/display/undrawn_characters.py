"""The characters of a sheet's prompts that no font here has."""

from collections.abc import Collection

from imagemill.scheduler_jobs.cli.display import output

SHOWN_CHARACTERS = 20
"""Characters without a font that are named."""


def warn_undrawn(characters: Collection[str]) -> None:
    """Say on standard error which characters stand as boxes on a sheet, if any do."""
    if characters:
        shown = " ".join(sorted(characters)[:SHOWN_CHARACTERS])
        more = len(characters) - SHOWN_CHARACTERS
        output.line(
            f"no font here draws {shown}{f' and {more:,} more' if more > 0 else ''}: they are "
            "boxes on the sheet; `pip install 'imagemill[fonts]'` adds Chinese, Japanese, Korean "
            "and emoji",
            error=True,
        )
