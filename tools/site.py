"""Hooks of MkDocs: the pages that lie outside docs/, and links that hold on GitHub and on the site.

mkdocs build --strict        (`make site`) writes the site; mkdocs.yml names this file
"""

import posixpath
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "docs" / "README.md"

OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "deploy/README.md": "deploy.md",
    "deploy/kubernetes/README.md": "kubernetes.md",
    "examples/README.md": "examples.md",
    "worker/shapes64/README.md": "shapes64.md",
}
"""Pages outside docs/, and their names on the site."""

HOME_ENDS = "\n## First steps\n"

_INDEX_LINES = re.compile(r"^(##+) (.+)$|^\| \[([^\]]+)\]\(([^)]+)\)", re.M)
_PARTS = re.compile(
    r"^ *```.*?^ *```"  # a block of code
    r"|(?P<image>!?)\[(?P<label>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)"
    r"|`[^`\n]+`",
    re.M | re.S,
)
_DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```", re.M | re.S)
_MOVE = re.compile(r"^ *(\S+) --> (\S+): (.+)$", re.M)
_TITLE = re.compile(r'state "(.+)" as ')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the navigation from docs/README.md."""
    config.nav = [{"Home": "index.md"}, *navigation(INDEX.read_text("utf-8"))]
    return config


def navigation(index: str) -> list[dict[str, list[Any]]]:
    """The sections of a list of documents, with the pages of their tables in order.

    A title is the text of the link, or the page's own where that text is only the file's name.
    """
    sections: list[dict[str, list[Any]]] = []
    for heading, title, text, target in _INDEX_LINES.findall(index):
        if heading:
            pages: list[Any] = []
            above = sections if heading == "##" else next(iter(sections[-1].values()))
            above.append({title: pages})
        else:
            uri = place_of(target, "docs/README.md", None)
            pages.append(uri if text.endswith(".md") else {text: uri})
    return [section for section in sections if any(section.values())]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/."""
    files.remove(files.src_uris["README.md"])
    for source, uri in OUTSIDE.items():
        # The home page is the beginning of README.md, and then the list of all documents.
        text = home() if uri == "index.md" else (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, uri, content=text))
    return files


def home() -> str:
    """README.md up to its first steps, and the list of the documents by kind."""
    pitch, found, _ = (ROOT / "README.md").read_text("utf-8").partition(HOME_ENDS)
    assert found, f"README.md has no {HOME_ENDS.strip()}"
    _, head, index = INDEX.read_text("utf-8").partition("\n## ")
    # Its links start in docs/; those of the page on which they will stand do not.
    index = linked(head + index, lambda target: posixpath.join("docs", target))
    return f"---\nhide: [navigation]\n---\n\n{pitch}\n{index}"


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page's text with links of the site, and diagrams as tables."""
    sources = {uri: source for source, uri in OUTSIDE.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    text = _DIAGRAM.sub(lambda found: diagram(found[1]), markdown)
    return linked(text, lambda target: place_of(target, source, config.repo_url))


def place_of(target: str, source: str, repo_url: str | None) -> str | None:
    """Where a link of the file `source` leads on the site, relative to its top.

    A file of the code has no page there: its link leads to `repo_url`, and is None without one.
    """
    path, anchor = urldefrag(target)
    if ":" in path or not path:
        return target
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    uri = {**OUTSIDE, "docs/README.md": "index.md"}.get(path)
    if uri is None and path.startswith("docs/"):
        uri = path.removeprefix("docs/")
    if uri is None:
        return repo_url and f"{repo_url.rstrip('/')}/blob/main/{path}"
    return f"{uri}#{anchor}" if anchor else uri


def linked(text: str, lead: Callable[[str], str | None]) -> str:
    """A text with `lead(target)` in the place of each link's target; None leaves no link."""

    def link(found: re.Match[str]) -> str:
        if found["target"] is None:
            return found[0]  # code
        target = found["target"] if ":" in found["target"] else lead(found["target"])
        if target is None:
            return found["label"]
        label = found["label"]
        if label.endswith(".md"):  # a file's name says little where there are no files
            label = titles().get(urldefrag(target)[0], label)
        return f"{found['image']}[{label}]({target})"

    return _PARTS.sub(link, text)


@cache
def titles() -> dict[str, str]:
    """The titles of pages in the list of documents, by their places on the site."""
    lines = _INDEX_LINES.findall(INDEX.read_text("utf-8"))
    return {str(place_of(target, "docs/README.md", None)): text for _, _, text, target in lines}


def diagram(text: str) -> str:
    """A diagram of states as a table: Mermaid itself would be fetched from another server."""
    moves, title = _MOVE.findall(text), _TITLE.search(text)
    assert moves, "only diagrams of states are known here"
    assert title, "a diagram has a title"
    rows = [f"| {_state(old)} | {_state(new)} | {by} |" for old, new, by in moves]
    return "\n".join([f"| {title[1]}: from | to | by |", "| --- | --- | --- |", *rows, ""])


def _state(name: str) -> str:
    return "(new)" if name == "[*]" else f"`{name}`"
