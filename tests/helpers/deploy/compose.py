"""Reads `docker-compose.yml` as Docker Compose does, as far as our file uses it.

For tests that check the file, and for those that run each service's exact command as a process.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.places import ROOT

COMPOSE_FILE = ROOT / "docker-compose.yml"
ENV_EXAMPLE = ROOT / "deploy" / "env.example"

_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<kind>:[?-])(?P<rest>[^}]*))?\}|(?P<bad>))"
)


class MissingVariable(Exception):
    """A `${NAME:?…}` without a value."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What one container runs: `argv`, with these environment variables and no others.

    `healthcheck` is the command of its health check, empty if there is none. `waits_for` are the
    services that have to be up or done before, with the condition. `document` is everything.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    healthcheck: tuple[str, ...]
    waits_for: Mapping[str, str]
    document: Mapping[str, Any]


def compose_commands(variables: Mapping[str, str]) -> dict[str, Service]:
    """Every service by name, with `variables` (the .env file) filled in."""
    return {
        name: Service(
            argv=(*_words(service.get("entrypoint")), *_words(service.get("command"))),
            environment={k: str(v) for k, v in service.get("environment", {}).items()},
            healthcheck=_check(service),
            waits_for={n: c["condition"] for n, c in service.get("depends_on", {}).items()},
            document=service,
        )
        for name, service in compose_document(variables)["services"].items()
    }


def compose_document(variables: Mapping[str, str]) -> dict[str, Any]:
    """The whole file, with anchors merged and `variables` filled in."""
    return _filled(yaml.safe_load(COMPOSE_FILE.read_text("utf-8")), variables)


def used_variables(text: str) -> dict[str, str | None]:
    """Every variable in a text, with its default; None where one is required."""
    return {
        found["name"]: found["rest"] if found["kind"] == ":-" else None
        for found in _VARIABLE.finditer(text)
        if found["name"]
    }


def env_file(path: Path) -> dict[str, str]:
    """The variables that a .env file sets."""
    lines = path.read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    def one(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        if not found["name"]:
            raise ValueError(f"a stray $ in {found.string!r}")
        given = variables.get(found["name"], "")
        if not given and found["kind"] != ":-":
            raise MissingVariable(f"{found['name']}: {found['rest']}")
        return given or found["rest"]

    if isinstance(value, str):
        return _VARIABLE.sub(one, value)
    if isinstance(value, list):
        return [_filled(each, variables) for each in value]
    if isinstance(value, dict):
        return {key: _filled(each, variables) for key, each in value.items()}
    return value


def _words(command: Any) -> tuple[str, ...]:
    # As a list only: a text would be split by rules of Compose's own.
    assert command is None or isinstance(command, list), f"not a list: {command!r}"
    return tuple(command or ())


def _check(service: Mapping[str, Any]) -> tuple[str, ...]:
    test = service.get("healthcheck", {}).get("test", ())
    if test and test[0] == "CMD-SHELL":
        return ("sh", "-c", test[1])
    return tuple(test[1:])
