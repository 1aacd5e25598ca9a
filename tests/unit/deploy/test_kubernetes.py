"""The files for Kubernetes: against its schemas, and against what they must say."""

import re

import kubernetes_validate
import promql_parser
import pytest

from imagemill.db.settings import Settings
from tests.helpers.deploy.compose import COMPOSE_FILE, compose_commands, used_variables
from tests.helpers.deploy.kubernetes import (
    FOLDER,
    containers,
    documents,
    kustomization,
    pods,
    settings,
)

VERSIONS = ("1.30", "1.34")
KEDA = "keda.sh/v1alpha1"
"""Not Kubernetes' own: there is no schema here."""

CHECKED = [each for each in documents() if each["apiVersion"] != KEDA]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", CHECKED, ids=lambda each: each["metadata"]["name"])
def test_each_resource_is_what_kubernetes_takes(document, version):
    kubernetes_validate.validate(document, version, strict=True)


def test_a_wrong_resource_would_be_found():
    document = next(each for each in documents() if each["kind"] == "Deployment")
    document["spec"]["replicas"] = "many"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


def test_the_kustomization_names_every_file_and_image():
    text = (FOLDER / "kustomization.yaml").read_text("utf-8")
    files = {file.name for file in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(re.findall(r"- ([a-z-]+\.yaml)", text))
    assert set(kustomization()["resources"]) == files - {"scaled-object.yaml"}
    named = {image["name"] for image in kustomization()["images"]}
    assert {each["image"] for each in containers().values()} == named | {"postgres:18"}


@pytest.mark.parametrize("name", list(containers()))
def test_a_container_may_do_nothing_but_run(name):
    assert containers()[name]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in containers()[name]["resources"]["limits"]


@pytest.mark.parametrize("name", list(pods()))
def test_a_pod_is_not_root_and_has_no_token(name):
    pod = pods()[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    mounted = {mount["name"] for each in pod["containers"] for mount in each["volumeMounts"]}
    assert mounted | {"tmp"} == {volume["name"] for volume in pod["volumes"]}


def test_settings_are_settings_and_no_secrets():
    names = {name.removeprefix("IMAGEMILL_").lower() for name in settings()} - {"aws_region"}
    assert names <= set(Settings.model_fields)
    text = "".join(file.read_text("utf-8") for file in FOLDER.glob("*.yaml"))
    assert not re.search(r"(PASSWORD|SECRET_ACCESS_KEY|DATABASE_URL|BROKER_URL)\s*:", text)


def test_a_worker_has_longer_than_its_drain_and_one_gpu():
    pod = pods()["imagemill-worker"]
    assert pod["terminationGracePeriodSeconds"] > float(settings()["IMAGEMILL_DRAIN_SECONDS"]) + 10
    (worker,) = pod["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert worker["command"][-2:] == ["--children", "1"]
    assert "lifecycle" not in worker, "a second signal would end it at once"


def test_the_commands_are_those_of_compose():
    compose = compose_commands(dict.fromkeys(used_variables(COMPOSE_FILE.read_text()), "x"))
    for name in ("migrate", "dispatcher", "flower", "serve"):
        assert tuple(containers()[name]["command"]) == compose[name].argv
    grants = [word.replace("/etc/imagemill", "") for word in containers()["grants"]["command"]]
    assert tuple(grants) == compose["grants"].argv


def test_the_autoscaler_s_query_is_one_of_metrics_that_exist():
    scaled = next(each for each in documents() if each["kind"] == "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    promql_parser.parse(query)
    known = (FOLDER.parents[1] / "docs" / "metrics.md").read_text("utf-8")
    for metric in re.findall(r"imagemill_\w+", query):
        assert f"`{metric}`" in known
    assert scaled["spec"]["scaleTargetRef"]["name"] in pods()


def test_the_page_names_every_secret():
    page = (FOLDER / "README.md").read_text("utf-8")
    for container in containers().values():
        for source in container["envFrom"]:
            if "secretRef" in source:
                assert f"| `{source['secretRef']['name']}` |" in page
