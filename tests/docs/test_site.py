"""`make site`: it builds, every link leads somewhere, and no page fetches anything."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from tests.helpers.http.browser import Browser
from tests.helpers.places import ROOT

pytest.importorskip("material", reason="the site needs the extra `docs`")

from tools.site import OUTSIDE, diagram, linked, navigation, place_of

FETCHING = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src")}
"""What a browser loads by itself; of `link`, all but the address of the page itself."""


@dataclass
class Built(HTMLParser):
    """One page: where its links lead, what it loads, and the ids that links may name."""

    file: Path
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    text: str = ""
    titles: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        self.titles += tag == "h1"
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") != "canonical":
            self.loads.append(given["href"])
        self.loads += [given[name] for kind, name in FETCHING if kind == tag and name in given]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """The built pages by their names."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {file.name: Built(file) for file in out.glob("*.html") if file.name != "404.html"}


def test_every_link_and_anchor_leads_somewhere(site: dict[str, Built]):
    broken = []
    for name, page in site.items():
        for link in page.links:
            path, anchor = urldefrag(link)
            if ":" in path:
                continue  # another server's
            file = (page.file.parent / unquote(path)) if path else page.file
            known = site[file.name].ids if file.name in site else set()
            if not file.is_file() or (anchor and unquote(anchor) not in known):
                broken.append(f"{name}: {link}")
    assert broken == []


def test_every_page_has_one_title(site: dict[str, Built]):
    assert {name: page.titles for name, page in site.items() if page.titles != 1} == {}


def test_no_page_loads_anything_from_another_server(site: dict[str, Built]):
    loads = {(name, load) for name, page in site.items() for load in page.loads}
    assert [(name, load) for name, load in sorted(loads) if ":" in load or "//" in load] == []
    for name, load in sorted(loads):
        assert (site[name].file.parent / unquote(urldefrag(load)[0])).is_file(), (name, load)


def test_every_document_is_a_page_that_the_navigation_and_the_search_have(site: dict[str, Built]):
    documents = {file.stem for file in (ROOT / "docs").glob("*.md")} - {"README"}
    documents |= {Path(uri).stem for uri in OUTSIDE.values()}
    assert {Path(name).stem for name in site} == documents
    in_navigation = {urldefrag(link)[0] for link in site["index.html"].links}
    assert set(site) - in_navigation == set()
    index = json.loads(
        (site["index.html"].file.parent / "search" / "search_index.json").read_text()
    )
    assert {urldefrag(each["location"])[0] for each in index["docs"]} == set(site)


@pytest.mark.browser
def test_a_browser_finds_pages_by_the_search_and_asks_no_other_server(
    site: dict[str, Built], browser: Browser
):
    folder = site["index.html"].file.parent
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            asked.append(self.headers.get("Host", ""))

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    try:
        browser.resize(390, 844, dark=True, phone=True)
        browser.open(f"http://{host}/index.html")
        assert browser.evaluate("document.body.dataset.mdColorScheme") == "slate"
        browser.resize(1280, 900)
        browser.open(f"http://{host}/tutorial.html")
        browser.click("input.md-search__input")
        browser.type("perceptual hashes")
        browser.wait("document.querySelectorAll('.md-search-result__link').length > 0")
        found = browser.evaluate(
            "[...document.querySelectorAll('.md-search-result__link')].map((a) => a.href)"
        )
        assert any("scores.html" in link for link in found)
        loaded = browser.evaluate("performance.getEntries().map((each) => each.name)")
        others = [name for name in loaded if "://" in name and f"//{host}/" not in name]
        assert others == []
        assert browser.problems == []
    finally:
        server.shutdown()
        server.server_close()
    assert set(asked) == {host}


def test_the_home_page_sells_in_one_screen(site: dict[str, Built]):
    home = site["index.html"]
    assert "images/contact-sheet.png" in home.loads
    assert "make run" in home.text
    assert "images lost" in home.text


@pytest.mark.parametrize(
    ("source", "target", "place"),
    [
        ("docs/cli.md", "scores.md#conditions", "scores.md#conditions"),
        ("docs/cli.md", "#exit-codes", "#exit-codes"),
        ("README.md", "docs/images/grid.png", "images/grid.png"),
        ("deploy/README.md", "../docs/metrics.md#alerts", "metrics.md#alerts"),
        ("docs/operations.md", "../deploy/README.md", "deploy.md"),
        ("CONTRIBUTING.md", "docs/README.md", "index.md"),
        ("docs/metrics.md", "../deploy/prometheus/alerts.yml", None),
        ("README.md", "https://example.org/a", "https://example.org/a"),
    ],
)
def test_a_link_leads_to_the_page_of_the_site(source: str, target: str, place: str | None):
    assert place_of(target, source, None) == place


def test_code_has_a_link_only_where_the_repository_is_published():
    source = "docs/metrics.md", "../deploy/prometheus/alerts.yml"
    assert place_of(*reversed(source), "https://host/mill/") == (
        "https://host/mill/blob/main/deploy/prometheus/alerts.yml"
    )
    text = "[`alerts`](alerts.yml) and `[no](link)`\n\n```sh\necho [no](link)\n```\n"
    assert linked(text, lambda _: None) == text.replace("[`alerts`](alerts.yml)", "`alerts`")


def test_the_navigation_has_the_sections_and_pages_of_the_list():
    index = (
        "## Start\n| [Tutorial](tutorial.md) | x |\n## How-tos\n### Render\n"
        "| [models.md](models.md) | x |\n### Run\n| [Deploy](../deploy/README.md) | x |\n"
    )
    assert navigation(index) == [
        {"Start": [{"Tutorial": "tutorial.md"}]},
        {"How-tos": [{"Render": ["models.md"]}, {"Run": [{"Deploy": "deploy.md"}]}]},
    ]


def test_a_file_name_as_a_label_becomes_the_title_of_the_page():
    assert linked("see [cli.md](cli.md#jobs).", lambda target: target) == (
        "see [Command line](cli.md#jobs)."
    )
    assert linked("the [docs](cli.md)", lambda target: target) == "the [docs](cli.md)"


def test_a_diagram_of_states_becomes_a_table():
    drawn = 'stateDiagram-v2\n  state "a job" as job {\n    [*] --> open: submit\n  }\n'
    assert "| (new) | `open` | submit |" in diagram(drawn)
