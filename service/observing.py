"""`tts up --observe`: a Prometheus beside the service, and where everything is that shows what it sees."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from evals.sglang_cpu import free_port
from service.catalog import OWN, Catalog
from service.settings import settings
from tts.errors import UsageError

_DEPLOY = File(__file__).parent / "deploy"
DASHBOARDS = _DEPLOY / "grafana" / "dashboards"
ALERTS = _DEPLOY / "prometheus" / "alerts.yml"
_USUAL = 9090
_KEPT = "15d"
_SECONDS = 5
"""Between two looks: a service on one machine is looked at from nearby."""
_NAMES = {"source_labels": ["__name__"], "regex": "sglang_(.+)", "target_label": "__name__", "replacement": "sglang:$1"}
"""SGLang tells a Prometheus before 3.0 `sglang_…` instead of `sglang:…`."""
_HOW = "apt-get install prometheus, or https://prometheus.io/download"
_IMPORT = f"     dashboards: import {DASHBOARDS}/*.json into a Grafana that has this Prometheus as a data source"


def configuration(targets: Mapping[str, Sequence[str]], *, token: str = "", seconds: int = _SECONDS) -> str:
    """A configuration that scrapes these addresses, by job, and looks after our alerts. JSON is YAML too."""
    pace = f"{seconds}s"
    more: dict[str, Any] = {"sglang": {"metric_relabel_configs": [_NAMES]}}
    if token:
        more["tts"] = {"authorization": {"credentials": token}}
    scrapes = [
        {"job_name": job, "static_configs": [{"targets": [*found]}], **more.get(job, {})}
        for job, found in targets.items()
        if found
    ]
    shared = {"scrape_interval": pace, "scrape_timeout": pace, "evaluation_interval": pace}
    return json.dumps({"global": shared, "rule_files": [str(ALERTS)], "scrape_configs": scrapes}, indent=1)


def arguments(program: str, folder: File, port: int) -> list[str]:
    """What starts a Prometheus that keeps what it sees in a folder, where its configuration is."""
    return [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--storage.tsdb.retention.time={_KEPT}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]


def servers(catalog: Catalog) -> list[str]:
    """Hosts and ports of the SGLang servers that a deployment names, those of its verifiers included."""
    named = [catalog.address(name) for name in catalog.names]
    profiles = [found[0] for name in catalog.names if (found := catalog.found(name))]
    own = [catalog.address(f"{name}/{OWN}") for name in catalog.names]
    spelled = {*named, *(profile.backend for profile in profiles), *own}
    urls = [url for each in spelled if each.startswith("sglang:") for url in each.removeprefix("sglang:").split(",")]
    return sorted({urlsplit(url).netloc for url in urls})


class Watcher(NamedTuple):
    """What starts a Prometheus, where there is one, and what is said of it."""

    command: Sequence[str] = ()
    told: str = ""


def watcher(folder: File, api: str, backend: str | None) -> Watcher:
    """For the API at this address and the servers behind it; what is seen is kept in the folder."""
    where = f"tts: metrics: http://{api}/metrics\n"
    program, known = shutil.which("prometheus"), settings()
    if program is None:
        where += f"     Prometheus: not started, there is none on the path; {_HOW}\n"
        return Watcher((), where + _IMPORT)
    port, own = _port(), folder / "prometheus"
    catalog = Catalog(known.model_copy(update={"default_model": backend}) if backend else known)
    token = known.metrics_token.get_secret_value() if known.metrics_token else ""
    text = configuration({"tts": [api], "sglang": servers(catalog)}, token=token)
    try:
        own.mkdir(parents=True, exist_ok=True, mode=0o700)  # the configuration may hold a token
        (own / "prometheus.yml").write_text(text)
    except OSError as error:
        raise UsageError(f"cannot keep what is observed in {own}: {error.strerror}; name another --dir") from error
    if known.auth == "keys" and not token:
        where += "     /metrics is closed: set TTS_METRICS_TOKEN\n"
    where += f"     Prometheus: http://127.0.0.1:{port}, its alerts: http://127.0.0.1:{port}/alerts\n"
    return Watcher(arguments(program, own.resolve(), port), where + _IMPORT)


def _port() -> int:
    """The usual one, so that a Grafana finds it again, unless it is taken."""
    try:
        with socket.create_server(("127.0.0.1", _USUAL)):
            return _USUAL
    except OSError:
        return free_port()
