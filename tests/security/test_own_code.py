"""Our own code never unpickles, evaluates or shells out, and loads safetensors alone.

What it writes into the temporary folder goes with its process.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.places import ROOT

PACKAGES = ("db", "scheduler_jobs", "worker")


@pytest.fixture(scope="module")
def trees() -> tuple[tuple[Path, ast.AST], ...]:
    """Every module of ours: a million nodes, to be gone before the next search for garbage."""
    return tuple(
        (file.relative_to(ROOT), ast.parse(file.read_text("utf-8")))
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
    )


FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


FORBIDDEN_CALLS = {
    ("torch", "load"),
    ("torch", "hub"),
    ("numpy", "load"),
    ("np", "load"),
    ("os", "system"),
    ("os", "popen"),
    ("yaml", "load"),
}


def _offences(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_IMPORTS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
            FORBIDDEN_IMPORTS
        ):
            yield str(node.module)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in FORBIDDEN_CALLS:
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call):
            yield from _offences_of_call(node)


def _offences_of_call(node: ast.Call) -> Iterator[str]:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name in {"eval", "exec", "compile", "__import__", "load_image"}:
        yield name
    for keyword in node.keywords:
        value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
        if keyword.arg == "shell" and value is not False:
            yield "shell"
        if keyword.arg in {"custom_pipeline", "trust_remote_code", "allow_pickle"}:
            yield keyword.arg
        if keyword.arg == "use_safetensors" and value is not True:
            yield "use_safetensors"


def test_no_module_of_ours_unpickles_evaluates_or_shells_out(
    trees: tuple[tuple[Path, ast.AST], ...],
) -> None:
    found = {str(file): sorted(set(_offences(tree))) for file, tree in trees}
    assert {file: offences for file, offences in found.items() if offences} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(x)",
        "x = eval(y)",
        "f(shell=True)",
        "from_pretrained(x, trust_remote_code=True)",
        "from_pretrained(x, use_safetensors=False)",
        "np.load(x, allow_pickle=True)",
    ],
)
def test_the_scan_finds_what_it_looks_for(text: str) -> None:
    assert list(_offences(ast.parse(text)))


NAMED_TEMPORARY_FILES = {"TemporaryDirectory", "NamedTemporaryFile", "mkdtemp", "mkstemp"}
MAKES_THEM = {
    Path("db/process/owned_folder.py"),  # so that they go with their process
    Path("scheduler_jobs/stack/home.py"),  # beside the file that takes its place
}


def test_named_temporary_files_are_owned(trees: tuple[tuple[Path, ast.AST], ...]) -> None:
    """Others would stay when their process is killed: a password, prompts, a whole export."""
    found = {
        file
        for file, tree in trees
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in NAMED_TEMPORARY_FILES)
        or (isinstance(node, ast.alias) and node.name in NAMED_TEMPORARY_FILES)
    }
    assert found == MAKES_THEM


def test_weights_are_never_loaded_without_saying_safetensors(
    trees: tuple[tuple[Path, ast.AST], ...],
) -> None:
    """Every `from_pretrained` of a module with weights says `use_safetensors=True`."""
    for file, tree in trees:
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in {"load_lora_weights", "load_textual_inversion"}:
                named = {keyword.arg for keyword in node.keywords}
                assert {"use_safetensors", "local_files_only"} <= named, f"{file}:{node.lineno}"
            if node.func.attr == "from_pretrained":
                named = {keyword.arg for keyword in node.keywords}
                assert "local_files_only" in named or None in named, f"{file}:{node.lineno}"
