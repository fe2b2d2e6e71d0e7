"""The alerts, Prometheus' and Grafana's own files: checked by Prometheus' own tool, and compared with each other."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path as File
from typing import Any

import pytest
from ruamel.yaml import YAML

from service.observing import ALERTS, DASHBOARDS, configuration
from tests.service.observe.prometheus import MISSING, PROMTOOL, rules
from tests.service.test_deploy import COMPOSE, DEPLOY, OPERATIONS

UNIT_TESTS = ALERTS.with_name("alerts_test.yml")
CONFIG = ALERTS.with_name("prometheus.yml")
SOURCE = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"
PROVIDER = DEPLOY / "grafana" / "provisioning" / "dashboards" / "tts.yaml"
NAMES = [rule["alert"] for rule in rules() if "alert" in rule]
with_promtool = pytest.mark.skipif(PROMTOOL is None, reason=MISSING)


def loaded(file: File) -> Any:
    return YAML(typ="safe").load(file)


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, timeout=120)


@with_promtool
def test_rules_are_rules() -> None:
    told = promtool("check", "rules", ALERTS)
    assert told.returncode == 0, told.stderr


@with_promtool
def test_alerts_come_when_they_should_and_not_when_they_should_not() -> None:
    told = promtool("test", "rules", UNIT_TESTS)
    assert told.returncode == 0, told.stdout + told.stderr


@with_promtool
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("> 300", "> 3000"),
        ("ratio_5m > 1", "ratio_5m > 0"),
        ("max without (instance, pod)", "sum without (instance, pod)"),
    ],
)
def test_the_unit_tests_find_a_wrong_rule(right: str, wrong: str, tmp_path: File) -> None:
    text = ALERTS.read_text()
    assert right in text
    (tmp_path / ALERTS.name).write_text(text.replace(right, wrong))
    (tmp_path / UNIT_TESTS.name).write_text(UNIT_TESTS.read_text())
    assert promtool("test", "rules", tmp_path / UNIT_TESTS.name).returncode != 0


@with_promtool
def test_configurations_are_configurations(tmp_path: File) -> None:
    for text in (
        CONFIG.read_text(),
        configuration({"tts": ["127.0.0.1:8000"], "sglang": ["gpu1:30000"]}, token="secret"),
    ):
        (tmp_path / CONFIG.name).write_text(text)
        (tmp_path / ALERTS.name).write_text(ALERTS.read_text())
        told = promtool("check", "config", "--syntax-only", tmp_path / CONFIG.name)
        assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(name: str) -> None:
    (rule,) = (rule for rule in rules() if rule.get("alert") == name)
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert {*rule["annotations"]} == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
    assert re.search(rf"^#+ {name}$", OPERATIONS, re.M), "the runbook has no such heading"


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_is_tested_both_ways(name: str) -> None:
    tried = [each for test in loaded(UNIT_TESTS)["tests"] for each in test.get("alert_rule_test", ())]
    said = [bool(each["exp_alerts"]) for each in tried if each["alertname"] == name]
    assert {*said} == {True, False}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = loaded(COMPOSE)
    return found


def test_prometheus_finds_its_files_and_scrapes_what_is_there(compose: dict[str, Any]) -> None:
    prometheus, config = compose["services"]["prometheus"], loaded(CONFIG)
    mounted = {
        each["target"]: COMPOSE.parent / compose["configs"][each["source"]]["file"] for each in prometheus["configs"]
    }
    assert {name: file.resolve() for name, file in mounted.items()} == {
        "/etc/prometheus/prometheus.yml": CONFIG,
        "/etc/prometheus/alerts.yml": ALERTS,
    }
    assert "--config.file=/etc/prometheus/prometheus.yml" in prometheus["command"]
    scraped = {each["job_name"]: each for each in config["scrape_configs"]}
    at_home = json.loads(configuration({"tts": ["a:1"], "sglang": ["b:2"]}))["scrape_configs"]
    assert [each.get("metric_relabel_configs") for each in at_home] == [
        scraped[each["job_name"]].get("metric_relabel_configs") for each in at_home
    ]
    for job, service in (("tts", "api"), ("sglang", "sglang")):
        (found,) = scraped[job]["dns_sd_configs"]
        assert found["names"] == [service]
        assert str(found["port"]) in compose["services"][service]["command"]
    (secret,) = prometheus["secrets"]
    assert scraped["tts"]["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert compose["secrets"][secret] == {"environment": "TTS_METRICS_TOKEN"}
    assert "TTS_METRICS_TOKEN" in compose["services"]["api"]["environment"]


def test_grafana_finds_its_files_and_lets_nobody_in_without_a_password(compose: dict[str, Any]) -> None:
    grafana = compose["services"]["grafana"]
    mounted = dict(each.split(":")[:2] for each in grafana["volumes"] if each.startswith("."))
    folders = {place: (COMPOSE.parent / folder).resolve() for folder, place in mounted.items()}
    (provider,) = loaded(PROVIDER)["providers"]
    assert folders[provider["options"]["path"]] == DASHBOARDS
    assert folders["/etc/grafana/provisioning"] == PROVIDER.parents[1]
    settings = grafana["environment"]
    assert settings["GF_AUTH_ANONYMOUS_ENABLED"] == settings["GF_USERS_ALLOW_SIGN_UP"] == "false"
    (secret,) = grafana["secrets"]
    assert settings["GF_SECURITY_ADMIN_PASSWORD__FILE"] == f"/run/secrets/{secret}"
    assert compose["secrets"][secret] == {"environment": "GRAFANA_PASSWORD"}
    home = File(settings["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (folders[str(home.parent)] / home.name).is_file()


def test_provisioning_says_what_grafana_reads(compose: dict[str, Any]) -> None:
    """Grafana publishes no schema of these files and passes over what it does not know: its documentation's fields."""
    (source,), (provider,) = loaded(SOURCE)["datasources"], loaded(PROVIDER)["providers"]
    assert loaded(SOURCE).keys() == {"apiVersion", "datasources"}
    assert loaded(PROVIDER).keys() == {"apiVersion", "providers"}
    assert source.keys() <= {
        *("name", "uid", "type", "access", "orgId", "url", "user", "database", "basicAuth", "basicAuthUser"),
        *("withCredentials", "isDefault", "jsonData", "secureJsonData", "version", "editable"),
    }
    assert provider.keys() <= {
        *("name", "orgId", "folder", "folderUid", "type", "disableDeletion", "updateIntervalSeconds"),
        *("allowUiUpdates", "options"),
    }
    assert (source["type"], source["access"], provider["type"]) == ("prometheus", "proxy", "file")
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == loaded(CONFIG)["global"]["scrape_interval"]


def test_nobody_has_to_watch(compose: dict[str, Any]) -> None:
    watching = {name for name, service in compose["services"].items() if service.get("profiles") == ["observe"]}
    assert watching == {"prometheus", "grafana"}
