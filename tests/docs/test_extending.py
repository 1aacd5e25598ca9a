"""Every page names files and folders that exist; docs/extending.md commits, too."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.command_lines import PAGES

ROOT = Path(__file__).parents[2]
EXTENDING = (ROOT / "docs" / "extending.md").read_text("utf-8")
CHANGES = (
    "A sampler",
    "A manifest column",
    "A storage backend",
    "An export format",
    "An image state",
    "A metric",
    "A command",
    "A model family",
    "A database index",
    "An error code",
    "A scorer",
)
_TOP = "db|scheduler_jobs|worker|imagemill|tests|tools|docs|deploy|examples|benchmarks"
_PATH = re.compile(rf"`((?:{_TOP})/[\w./-]*)`")
_MADE = {"benchmarks/results/gpu-NAME/", "deploy/hashes/torch.txt"}
"""What readers make themselves."""
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
_COMMIT = re.compile(r"`([0-9a-f]{7})`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_exists(page: Path):
    text = page.read_text("utf-8")
    missing = {path for path in _PATH.findall(text) if not (ROOT / path).exists()}
    assert missing - _MADE == set()


def test_every_change_has_its_section_with_files():
    sections = re.split(r"^## \d+\. (.+)$", EXTENDING, flags=re.M)
    assert tuple(sections[1::2]) == CHANGES
    for title, text in zip(sections[1::2], sections[2::2], strict=True):
        assert len(set(_PATH.findall(text))) >= 2, title
        assert re.search(r"^1\. ", text, re.M) or "1. " in text, title


def test_every_commit_that_is_named_is_in_the_history():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("this copy has no history")
    ask = [git, "-C", str(ROOT), "rev-parse", "--is-shallow-repository"]
    found = subprocess.run(ask, capture_output=True, text=True, check=False)
    if found.stdout.strip() != "false":
        pytest.skip("this copy has no whole history")
    commits = _COMMIT.findall(EXTENDING)
    assert len(commits) >= len(CHANGES) - 2
    for commit in commits:
        exists = [git, "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"]
        assert subprocess.run(exists, check=False).returncode == 0, commit


def test_every_link_between_documents_leads_to_a_file():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    pages += [ROOT / "deploy" / "README.md", ROOT / "examples" / "README.md"]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in _LINK.findall(page.read_text("utf-8"))
        if not (page.parent / link).exists()
    ]
    assert broken == []


def test_every_page_is_in_the_index_of_the_documents():
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"({page})" not in index} == set()


@pytest.mark.parametrize("page", ["README.md", "docs/README.md", "docs/architecture.md"])
def test_the_glossary_is_linked(page: str):
    assert "glossary.md" in (ROOT / page).read_text("utf-8")


def test_each_word_is_defined_once():
    glossary = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", glossary, re.M)
    assert len(words) == len(set(words))
    asked = {"job", "row", "image", "object", "group", "slot", "shift", "lease", "token"}
    asked |= {"environment", "sampler", "tally", "suspect", "composition", "outcome", "route"}
    asked |= {"request key", "pixel key", "drain", "fence"}
    assert asked - set(words) == set()


def test_the_tree_of_the_readme_is_todays_layout():
    tree = re.search(r"^```\n(db/ .+?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
    assert tree is not None
    parents: list[str] = []
    for line in tree[1].splitlines():
        name, _, comment = line.strip().partition("/ ")
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        assert (ROOT / "/".join(parents)).is_dir(), line
        assert comment.strip(), f"{name} has no comment"
