"""What a notebook shows: a progress bar that moves, and pictures under the cell.

Elsewhere the same progress is a bar on a terminal or lines of text. Styles stand at each element
and take the notebook's own colours, because notebooks drop style sheets and may be dark.
"""

import base64
import html
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from imagemill.db.errors import StorageError
from imagemill.db.queries.tallies import Counts
from imagemill.scheduler_jobs.cli.display.progress import Pace, ProgressView, facts_of

SHOWN_PICTURES = 24
"""The most pictures under a cell: a notebook keeps them in its file."""

_SIDE = 256
"""The longest side of a picture in a notebook's file, in pixels."""

_SHOWN_SIDE = 144
_PROMPT_CHARACTERS = 90
_SECONDS = 0.5
"""The time between two changes of the bar."""

Progress = Callable[[Counts, str], None]
"""Shows a job's counts, and a short note."""


def in_notebook() -> bool:
    """Whether something shows HTML: a notebook's kernel, but not IPython on a terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and not any(
        kind.__name__ == "TerminalInteractiveShell" for kind in type(shell).__mro__
    )


@contextmanager
def progress(title: str, *, shown: bool = True) -> Iterator[Progress]:
    """Within the block, show the progress of a job: as a notebook does, or on standard error."""
    if not shown:
        yield lambda counts, note: None
    elif in_notebook():
        bar = _Bar(title)
        yield bar.update
        bar.end()
    else:
        with ProgressView(title) as view:
            yield lambda counts, note: view.update(counts, note=note)


class _Bar:
    """A bar under the cell, changed in place."""

    def __init__(self, title: str) -> None:
        from IPython.display import display  # noqa: PLC0415  # it is there: see `in_notebook`

        self._title = title
        self._pace = Pace()
        self._last = (Counts(), "")
        self._next = 0.0
        self._shown = self._bundle()
        self._handle = display(self._shown, raw=True, display_id=True)  # type: ignore[no-untyped-call]  # untyped there

    def update(self, counts: Counts, note: str = "") -> None:
        """Show these counts; not more often than a person can read."""
        self._pace.add(counts.done)
        self._last = (counts, note)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS
            self._show()

    def end(self) -> None:
        """Show the last counts."""
        self._show()

    def _show(self) -> None:
        """Change the output, if there is anything new to see: each change is sent to a browser."""
        bundle = self._bundle()
        if bundle != self._shown:
            self._shown = bundle
            self._handle.update(bundle, raw=True)

    def _bundle(self) -> dict[str, str]:
        counts, note = self._last
        facts = facts_of(counts, self._pace, note)
        return {
            "text/plain": f"{self._title}: {facts}",
            "text/html": bar_html(self._title, counts, facts),
        }


def bar_html(title: str, counts: Counts, facts: str) -> str:
    """A bar of a job's counts: what is done, then what is dead, then what is left."""
    total = max(counts.requested, 1)
    parts = ((counts.done, "#2e9e5b"), (counts.dead, "#d0453e"), (counts.cancelled, "#c79a2b"))
    filled = "".join(
        f'<div style="width:{100 * count / total:.2f}%;background:{colour}"></div>'
        for count, colour in parts
        if count
    )
    return (
        '<div style="font:13px/1.5 system-ui,sans-serif;max-width:720px">'
        f"<div><b>{html.escape(title)}</b> &nbsp;{html.escape(facts)}</div>"
        '<div style="display:flex;height:8px;border-radius:4px;overflow:hidden;'
        f'background:rgba(128,128,128,.25)">{filled}</div></div>'
    )


def pictures_html(images: Iterable[Any], *, total: int | None = None) -> str:
    """The first pictures of some images, each with its row, its seed and its prompt."""
    figures, count = [], 0
    for image in images:
        if count == SHOWN_PICTURES:
            break
        figures.append(_figure(image))
        count += 1
    more = ""
    if total is not None and total > count:
        more = f"<div>the first {count:,} of {total:,} pictures</div>"
    return (
        '<div style="font:12px/1.4 system-ui,sans-serif">'
        f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(figures)}</div>{more}</div>'
    )


def _figure(image: Mapping[str, Any]) -> str:
    prompt = str(image["prompt"])
    short = prompt if len(prompt) <= _PROMPT_CHARACTERS else prompt[: _PROMPT_CHARACTERS - 1] + "…"
    row = image["row_key"] or image["row_number"]
    facts = f"image {image['image_id']} · row {row} · sample {image['sample_index']}"
    if image["outcome"] != "ok":
        facts += f" · {image['outcome']}"
    return (
        f'<figure style="margin:0;width:{_SHOWN_SIDE}px" title="{html.escape(prompt)}">'
        f"{_picture(image)}<figcaption>"
        f'<div style="opacity:.7">{html.escape(facts)}<br>seed {image["seed"]}</div>'
        f"<div>{html.escape(short)}</div></figcaption></figure>"
    )


def _picture(image: Any) -> str:
    try:
        body, kind = _small(image)
    except StorageError as error:
        return (
            f'<div style="height:{_SHOWN_SIDE}px;border:1px dashed;opacity:.6">'
            f"{html.escape(error.message[:120])}</div>"
        )
    data = base64.b64encode(body).decode("ascii")
    return (
        f'<img alt="" src="data:image/{kind};base64,{data}" style="width:100%;'
        f'max-height:{2 * _SHOWN_SIDE}px;object-fit:contain;display:block;border-radius:4px">'
    )


def _small(image: Any) -> tuple[bytes, str]:
    """The picture for a notebook: PNG if it is small as it is, else a JPEG of `_SIDE` pixels."""
    picture = image.picture()
    name = "PNG" if max(picture.size) <= _SIDE else "JPEG"
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, name, **({"quality": 85} if name == "JPEG" else {}))
    return stream.getvalue(), name.lower()
