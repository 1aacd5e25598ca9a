"""The scripts, styles and outlines of pages: files in `assets/`, and how data stand in a page.

Texts from manifests may hold anything. Into HTML they go escaped; into a script's data they go as
JSON without `<`, `>` and `&`, so that no text can end the element that it stands in.
"""

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

SHARED_SCRIPTS = ("elements.js", "facts.js", "grid.js", "viewer.js", "summary.js", "explorer.js")
"""What a report and the gallery have in common, in the order in which it is loaded."""

STYLE = "page.css"

_IN_SCRIPT = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def asset(name: str) -> str:
    """The text of a file in `assets/`."""
    found = files("imagemill.scheduler_jobs.pages") / "assets" / name
    return found.read_text(encoding="utf-8")


def outline(name: str, **texts: str) -> str:
    """An HTML file of `assets/` with `$name` replaced by the escaped text of that name."""
    return Template(asset(name)).substitute({key: escape(text) for key, text in texts.items()})


def data_element(kind: str, value: Any) -> str:
    """A script element that holds `value` as JSON for the page's own scripts; it never runs."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_IN_SCRIPT)
    return f'<script type="application/json" class="{kind}">{text}</script>\n'


def source_hash(text: str) -> str:
    """An inline script or style as a Content-Security-Policy names it."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
