"""A real Prometheus, and what the dashboards and alerts ask of it."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path as File
from typing import Any, NamedTuple, Self

import httpx
from ruamel.yaml import YAML

from evals.sglang_cpu import free_port
from service.observing import ALERTS, DASHBOARDS, arguments, configuration

BINARY = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")
MISSING = "Prometheus is not installed: apt-get install prometheus"


class Asked(NamedTuple):
    """One query: of which panel or alert, its text, how its series are called, and whether only of now."""

    where: str
    of: str
    called: str
    instant: bool


class Series(NamedTuple):
    """One line of an answer: its labels, and values by time."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]

    @property
    def empty(self) -> bool:
        return all(math.isnan(value) for _, value in self.points)


def filled(text: str, window: str, shown: str) -> str:
    """A query as Grafana sends it when everything is shown."""
    values = {"__rate_interval": window, "__range": shown, "tenant": ".*", "strategy": ".*", "model": ".*"}
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], text)


def dashboards() -> dict[str, dict[str, Any]]:
    """What Grafana loads, by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that ask something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def asked_by(name: str, panel: Mapping[str, Any], window: str, shown: str) -> list[Asked]:
    """The queries of one panel."""
    return [
        Asked(
            f"{name}: {panel['title']}",
            filled(target["expr"], window, shown),
            target["legendFormat"],
            bool(target.get("instant")),
        )
        for target in panel["targets"]
    ]


def asked_by_panels(window: str = "5s", shown: str = "1m") -> list[Asked]:
    """All queries of all panels."""
    return [
        asked
        for name, dashboard in dashboards().items()
        for panel in panels(dashboard)
        for asked in asked_by(name, panel, window, shown)
    ]


def rules() -> list[dict[str, Any]]:
    """Recording and alerting rules."""
    groups = YAML(typ="safe").load(ALERTS)["groups"]
    return [rule for group in groups for rule in group["rules"]]


def asked_by_rules() -> list[Asked]:
    """What rules compare: `bool` has a comparison say 0 or 1 where it would say nothing at all."""
    return [
        Asked(
            rule.get("alert") or rule["record"],
            re.sub(r" ([<>]) (?=[\d.]+$)", r" \1 bool ", rule["expr"], flags=re.M),
            "",
            True,
        )
        for rule in rules()
    ]


class Reader:
    """Asks a Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=f"{url}/api/v1", timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **parameters: Any) -> Any:
        """What its API answers. Raises `AssertionError` with what is wrong with a query."""
        told = self._client.get(path, params=parameters)
        assert told.status_code == 200, f"{parameters}: {told.text}"
        return told.json()["data"]

    def now(self, query: str) -> list[Series]:
        """The answer to an instant query."""
        data = self.get("/query", query=query)
        if data["resultType"] == "scalar":
            return [Series({}, [_point(data["result"])])]
        return [Series(each["metric"], [_point(each["value"])]) for each in data["result"]]

    def over(self, query: str, seconds: float, step: float, end: float | None = None) -> list[Series]:
        """The answer over the last so many seconds, now or at another time."""
        end = end or time.time()
        data = self.get("/query_range", query=query, start=end - seconds, end=end, step=step)
        return [Series(each["metric"], [*map(_point, each["values"])]) for each in data["result"]]


def _point(pair: Sequence[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


@contextmanager
def watching(folder: File, targets: Mapping[str, Sequence[str]], token: str = "") -> Iterator[Reader]:
    """A Prometheus that scrapes every second, until it is no longer needed."""
    assert BINARY is not None, MISSING
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(configuration(targets, token=token, seconds=1))
    port = free_port()
    with (folder / "log").open("w") as log, Reader(f"http://127.0.0.1:{port}") as reader:
        process = subprocess.Popen(arguments(BINARY, folder, port), stdout=log, stderr=log)
        try:
            _wait(reader)
            yield reader
        finally:
            process.terminate()
            process.wait(20)


def _wait(reader: Reader) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{reader.url}/-/ready", timeout=2).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError("Prometheus did not get ready")
