"""docker-compose.yml and deploy/: right by Compose's schema, closed by default, and complete."""

import json
import re
import stat
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from tests.helpers.deploy.compose import (
    COMPOSE_FILE,
    ENV_EXAMPLE,
    ROOT,
    MissingVariable,
    compose_commands,
    compose_document,
    env_file,
    used_variables,
)

DEPLOY = ROOT / "deploy"
SCHEMA = ROOT / "tests" / "data" / "compose" / "compose-spec.json"

SECRETS = {name: f"secret-of-{name.lower().replace('_', '-')}" for name in env_file(ENV_EXAMPLE)}
DOCUMENT = compose_document(SECRETS)
SERVICES = compose_commands(SECRETS)
OURS = {name: s for name, s in SERVICES.items() if s.document["image"].startswith("imagemill-")}


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
    producers = {"dispatcher", "serve", "cli"}
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
    ports = (5432, 6379, 8333, 5555, 8422, 9090, 3000)
    assert published == [f"127.0.0.1:{port}:{port}" for port in ports]


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
        "cli": everything,
        **dict.fromkeys(
            ("dispatcher", "serve", "worker-cpu", "worker-gpu"), everything | {"metrics"}
        ),
        "prometheus": {"metrics"},
        "grafana": {"metrics"},
    }


def test_our_containers_may_do_nothing_but_run():
    for service in OURS.values():
        assert service.document["read_only"] is True
        assert service.document["cap_drop"] == ["ALL"]
        assert service.document["security_opt"] == ["no-new-privileges:true"]


def test_images_of_others_are_pinned():
    for name in SERVICES.keys() - OURS.keys():
        image = SERVICES[name].document["image"]
        assert re.fullmatch(r"[a-z/]+:v?\d+(\.\d+)*", image), image
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
        "serve": "imagemill_producer",
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
        "serve": ("imagemill", "serve", "--host=0.0.0.0"),
        "cli": ("imagemill", "--help"),
    }


# The .env file ------------------------------------------------------------------------------


def make_env(target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(DEPLOY / "make-env.sh"), str(target)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
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
        ["git", "check-ignore", "--quiet", ".env"], cwd=ROOT, check=False, timeout=300
    )
    if ignored.returncode == 128:
        pytest.skip("not a git checkout")
    assert ignored.returncode == 0
