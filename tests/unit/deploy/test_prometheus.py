"""deploy/prometheus and deploy/grafana: every query parses, names metrics that exist, and works."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
import yaml

from imagemill.scheduler_jobs.api import metrics as http
from imagemill.scheduler_jobs.metrics import families
from imagemill.worker import metrics as worker
from tests.helpers.deploy.compose import ENV_EXAMPLE, ROOT, compose_commands, env_file
from tests.helpers.deploy.metrics import all_metrics, series_names

DEPLOY = ROOT / "deploy"
CONFIG = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8"))
TESTS = yaml.safe_load((DEPLOY / "prometheus" / "tests.yml").read_text("utf-8"))
BOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text("utf-8"))
PAGE = (ROOT / "docs" / "metrics.md").read_text("utf-8")
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}


def queries() -> Iterator[tuple[str, str]]:
    for name, rule in ALERTS.items():
        yield name, rule["expr"]
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("name", "query"), list(queries()))
def test_a_query_names_metrics_and_labels_that_exist(name: str, query: str) -> None:
    promql_parser.parse(query)
    used = set(re.findall(r"\bimagemill_\w+", query))
    assert used, name
    assert used <= series_names(), name
    labels = {"instance", "le", *(label for each in label_names().values() for label in each)}
    for listed in re.findall(r"\bby \(([^)]*)\)", query):
        assert {label.strip() for label in listed.split(",")} <= labels, name


def label_names() -> dict[str, tuple[str, ...]]:
    found = {family.name: family._labelnames for family in families().values()}
    found |= {
        each._name: each._labelnames
        for each in (*vars(worker).values(), *vars(http).values())
        if hasattr(each, "_labelnames")
    }
    return {**found, "imagemill_gpu": ("gpu", "name")}


def test_the_check_itself_finds_a_mistake() -> None:
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum(rate(imagemill_images_total[5m])")
    assert "imagemill_images" not in series_names()


def test_every_alert_has_its_test_and_its_line_on_the_page() -> None:
    tested = {
        case["alertname"]
        for each in TESTS["tests"]
        for case in each["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tested == set(ALERTS)
    assert set(re.findall(r"^\| `(Imagemill\w+)`", PAGE, re.MULTILINE)) == set(ALERTS)


def test_the_page_lists_every_metric_with_its_labels() -> None:
    rows = re.findall(r"^\| `(imagemill_\w+)` \| ([^|]*) \|", PAGE, re.MULTILINE)
    listed = {
        name.removesuffix("_total"): tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows
    }
    counters = {m.name for m in all_metrics() if m.type == "counter"}
    assert {name.removesuffix("_total") for name, _ in rows if name.endswith("_total")} == counters
    assert set(listed) == {metric.name for metric in all_metrics()}
    for name, labels in label_names().items():
        assert listed.get(name, labels) == tuple(labels), name


def test_prometheus_asks_where_compose_serves() -> None:
    services = compose_commands(dict.fromkeys(env_file(ENV_EXAMPLE), "x"))
    asked = {
        (name, found["port"])
        for job in CONFIG["scrape_configs"]
        for found in job["dns_sd_configs"]
        for name in found["names"]
    }
    served = {
        (name, int(each.environment["IMAGEMILL_METRICS_PORT"]))
        for name, each in services.items()
        if "IMAGEMILL_METRICS_PORT" in each.environment
    }
    assert asked == served
    assert CONFIG["rule_files"] == ["/etc/prometheus/alerts.yml"]


def test_the_dashboard_asks_the_source_that_is_provided() -> None:
    source = yaml.safe_load((DEPLOY / "grafana" / "datasource.yml").read_text("utf-8"))
    [only] = source["datasources"]
    assert {panel["datasource"]["uid"] for panel in BOARD["panels"]} == {only["uid"]}
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "tests.yml"),
    ],
    ids=["config", "rules", "alerts fire"],
)
def test_promtool_accepts(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here (Debian: apt-get install prometheus)")
    done = subprocess.run(
        [promtool, *arguments],
        cwd=Path(DEPLOY / "prometheus"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
