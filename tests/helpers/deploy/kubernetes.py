"""Reads `deploy/kubernetes/` as Kustomize does, as far as our files use it."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.helpers.places import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"


def kustomization() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))


def documents() -> Iterator[dict[str, Any]]:
    """Every resource, also those that are turned on by hand."""
    for file in sorted(FOLDER.glob("*.yaml")):
        if file.name != "kustomization.yaml":
            yield from yaml.safe_load_all(file.read_text("utf-8"))


def pods() -> Mapping[str, Mapping[str, Any]]:
    """The specification of each pod, by the name of its Deployment or Job."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in documents()
        if each["kind"] in {"Deployment", "Job"}
    }


def containers() -> Mapping[str, Mapping[str, Any]]:
    """Every container by its name, those that come first included."""
    return {
        container["name"]: container
        for pod in pods().values()
        for container in (*pod.get("initContainers", ()), *pod["containers"])
    }


def settings() -> Mapping[str, str]:
    """The variables that are no secrets."""
    found = next(each for each in documents() if each["metadata"]["name"] == "imagemill-settings")
    return found["data"]
