"""The dashboards: made by their code, of Grafana's schema, and asking for what there is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path as File
from typing import Any

import pytest

from evals.sglang_cpu import PYTHON
from service.metrics.table import METRICS
from service.observing import DASHBOARDS
from tests.service.observe.prometheus import asked_by_panels, asked_by_rules, dashboards, panels, rules

SCHEMA = File(__file__).with_name("grafana.schema.json")
TABLE = {metric.name: metric for metric in METRICS}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
SGLANG = {
    "sglang:cached_tokens_total",
    "sglang:generation_tokens_total",
    "sglang:kv_evictable_tokens",
    "sglang:kv_used_tokens",
    "sglang:max_total_num_tokens",
    "sglang:num_queue_reqs",
    "sglang:num_running_reqs",
    "sglang:prompt_tokens_total",
    "sglang:time_to_first_token_seconds",
    "sglang:token_usage",
}
"""What is asked of SGLang, version by version."""
THEIR_LABELS = {"model_name", "instance", "tp_rank", "pp_rank", "moe_ep_rank", "pid", "le", "job"}
LABELS_OF_RULES = {"tenant", "unit"}
ALL = [*asked_by_panels(), *asked_by_rules()]
"""Every query of every panel and every rule."""
COPIES_ARE_ONE = re.compile(r"max (?:without \(instance, pod\) \((?:(?:rate|increase)\()?|by \([\w, ]+\) \()$|max\($")
"""What stands before a metric: a rate inside, the largest of all copies around it."""
GROUPING = re.compile(r"\b(?:by|without|on|group_left)\s*\(([^)]*)\)")


def metrics(query: str) -> set[str]:
    """The names in a query that are no functions, labels, words or numbers."""
    bare = GROUPING.sub(" ", re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", query))
    words = set(re.findall(r"(?<![\w.:])[a-zA-Z_][\w:]*(?!\w|\s*\()", bare))
    return words - {"and", "or", "unless", "bool", "offset"}


def family(name: str) -> str:
    """The metric that a series belongs to."""
    for metric in (TABLE, SGLANG):
        if name in metric:
            return name
    return re.sub(r"_(bucket|sum|count)$", "", name)


def selected(query: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics that a query narrows, and by which labels."""
    for name, inside in re.findall(r"([\w:]+)\{([^}]*)\}", query):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside))


def labels(name: str) -> set[str]:
    """Those that a metric has."""
    if name in RECORDED:
        return LABELS_OF_RULES
    if family(name) in TABLE:
        return {*TABLE[family(name)].labels, "instance", "pod", "le"}
    return THEIR_LABELS | {"mode", "cache_source"}


def lint(file: File) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(SCHEMA), str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_files_are_what_the_code_makes() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="only developers have Grafana's SDK")
    from service.metrics.dashboards import files

    assert {file.name: file.read_text() for file in DASHBOARDS.iterdir()} == files(), (
        "python -m service.metrics.dashboards writes them"
    )


@pytest.mark.parametrize("name", dashboards())
def test_a_dashboard_is_one_by_the_schema_of_grafana(name: str) -> None:
    told = lint(DASHBOARDS / f"{name}.json")
    assert told.returncode == 0, told.stdout[:3000]


@pytest.mark.parametrize(
    ("right", "wrong"), [('"legendFormat"', '"legend"'), ('"min": 0', '"min": "0"'), ('"colorMode"', '"colors"')]
)
def test_the_schema_finds_mistakes(right: str, wrong: str, tmp_path: File) -> None:
    text = (DASHBOARDS / "engines.json").read_text()
    assert right in text
    (tmp_path / "broken.json").write_text(text.replace(right, wrong, 1))
    assert lint(tmp_path / "broken.json").returncode != 0


@pytest.mark.parametrize("asked", ALL, ids=lambda asked: asked.where)
def test_a_query_asks_for_metrics_and_labels_that_there_are(asked: Any) -> None:
    names = metrics(asked.of)
    assert names
    for name in names:
        assert family(name) in {*TABLE, *RECORDED, *SGLANG, "up"}, name
    for name, narrowed in selected(asked.of):
        assert narrowed <= labels(name), name
    known = set[str]().union(*map(labels, names))
    grouped = {label for group in GROUPING.findall(asked.of) for label in re.findall(r"\w+", group)}
    assert grouped <= known
    assert set(re.findall(r"\{\{(\w+)\}\}", asked.called)) <= grouped, "a legend shows what is not there"


def test_names_are_found_in_queries() -> None:
    query = 'sum by (le, a) (max without (b) (rate(x_bucket{c="d"}[5m]))) / on (a) group_left () (y > 0) or vector(0.5)'
    assert metrics(query) == {"x_bucket", "y"}
    assert [*selected(query)] == [("x_bucket", {"c"})]


def test_every_metric_is_shown_or_watched() -> None:
    used = {family(name) for asked in ALL for name in metrics(asked.of)}
    assert {name for name in TABLE if name not in used} == set()
    assert used & {name for name in used if name.startswith("sglang:")} == SGLANG


@pytest.mark.parametrize("asked", ALL, ids=lambda asked: asked.where)
def test_copies_of_a_metric_are_made_one_before_anything_else(asked: Any) -> None:
    """Every API process shows the same counters: a sum over them would count each several times."""
    for found in re.finditer(r"\btts_\w+", re.sub(r"\s+", " ", asked.of)):
        assert COPIES_ARE_ONE.search(found.string[: found.start()]), found.string


@pytest.mark.skipif(not PYTHON.is_file(), reason="no SGLang is installed to compare with; `make sglang` does it")
def test_sglang_has_what_it_is_asked_for() -> None:
    source = "".join(
        file.read_text() for file in (PYTHON.parents[1] / "lib").glob("*/site-packages/sglang/srt/observability/*.py")
    )
    assert {name for name in SGLANG if f'"{name}"' not in source} == set()


@pytest.mark.parametrize("name", dashboards())
def test_a_dashboard_can_be_read_at_night(name: str) -> None:
    dashboard = dashboards()[name]
    for panel in panels(dashboard):
        assert len(panel["description"]) > 15, panel["title"]
        table = panel["type"] == "table"
        assert table or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(titles)
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == [
        "datasource",
        "tenant",
        "strategy",
        "model",
    ]
    (link,) = dashboard["links"]
    assert (link["includeVars"], link["keepTime"], link["tags"]) == (True, True, dashboard["tags"])


@pytest.mark.parametrize("name", dashboards())
def test_panels_lie_side_by_side(name: str) -> None:
    places = [panel["gridPos"] for panel in dashboards()[name]["panels"]]
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
    assert all(place["x"] + place["w"] <= 24 for place in places)


def test_the_schema_is_of_the_grafana_that_is_started() -> None:
    made_of = re.findall(r"@grafana/schema@(\S+)", SCHEMA.with_name("grafana.ts").read_text())[0]
    compose = (DASHBOARDS.parents[1] / "compose.yaml").read_text()
    assert f"image: grafana/grafana:{made_of}\n" in compose


def test_files_are_small_enough_to_be_read() -> None:
    assert all(len(json.dumps(dashboard)) < 100_000 for dashboard in dashboards().values())
