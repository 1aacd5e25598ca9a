"""A1111's parameters of a picture ("infotext") in the place of a prompt, which they are not."""

import re

from imagemill.scheduler_jobs.manifest.problems import Broken

_LAST_LINE = re.compile(
    r"^Steps: [0-9]+, (?:Sampler|Schedule type|CFG scale|Seed|Size): ", re.MULTILINE
)


def check_no_infotext(text: str, *, line: int) -> None:
    """Raise `Broken` if the text, which begins at this line, ends with such parameters.

    As lines of prompts, they would be three pictures of which two are drawn from settings.
    """
    found = _LAST_LINE.search(text)
    if found is not None:
        raise Broken(
            "a picture's parameters as A1111 writes them, and no prompt",
            "a prompt; docs/moving.md makes rows of such texts",
            line=line + text.count("\n", 0, found.start()),
        )
