"""`tts up --observe`: a Prometheus beside the service, or a word on how to get one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path as File

import httpx
import pytest

from evals.sglang_cpu import free_port
from service.catalog import Catalog
from service.observing import ALERTS, DASHBOARDS, servers
from service.settings import Settings
from tests.service.observe.prometheus import BINARY, MISSING, Reader

TOKEN = "a token of this test"


@contextmanager
def up(folder: File, **settings: str) -> Iterator[tuple[int, File]]:
    """The service with what observes it: its port, and what it says."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TTS_DRAIN_SECONDS": "0", **settings}
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "service", "up", "--observe", "--backend", "fake:tests.handlers:quick"]
    with log.open("w") as out:
        process = subprocess.Popen([*command, "--port", str(port)], env=environment, cwd=folder, stderr=out, stdout=out)
    try:
        _until(lambda: "dashboards: " in log.read_text())
        yield port, log
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _until(holds: object, seconds: float = 60) -> None:
    assert callable(holds)
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.2)


def _health(reader: Reader) -> list[str]:
    with suppress(httpx.HTTPError, AssertionError):
        return [target["health"] for target in reader.get("/targets")["activeTargets"]]
    return []


@pytest.mark.skipif(BINARY is None, reason=MISSING)
def test_it_starts_a_prometheus_that_reads_the_service_and_stops_it(tmp_path: File) -> None:
    with up(tmp_path, TTS_AUTH="keys", TTS_METRICS_TOKEN=TOKEN) as (port, log):
        said = log.read_text()
        assert f"metrics: http://127.0.0.1:{port}/metrics" in said
        assert f"{DASHBOARDS}/*.json" in said
        assert TOKEN not in said
        url = re.findall(r"Prometheus: (http://\S+),", said)[0]
        with Reader(url) as reader:
            _until(lambda: _health(reader) == ["up"])
            (group, *_) = reader.get("/rules")["groups"]
            assert group["file"] == str(ALERTS)
        assert oct((tmp_path / ".tts" / "prometheus").stat().st_mode)[-3:] == "700", "there is a token in it"
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_without_one_it_says_how_to_get_it_and_serves(tmp_path: File) -> None:
    with up(tmp_path, PATH=str(tmp_path)) as (port, log):
        assert "Prometheus: not started" in log.read_text()
        assert "apt-get install prometheus" in log.read_text()
        assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200


def test_servers_are_those_of_models_and_of_their_verifiers(tmp_path: File, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tts.toml").write_text(
        '[models.a]\nbackend = "sglang:http://gpu2:30000,http://gpu1:30000"\nverifier = "prm@sglang:http://gpu3:30000"\n'
        '[models.b]\nbackend = "fake:tests.handlers:quick"\n'
    )
    monkeypatch.setenv("TTS_CONFIG", str(tmp_path / "tts.toml"))
    known = Settings(default_model="sglang:http://gpu4:30000")
    assert servers(Catalog(known)) == ["gpu1:30000", "gpu2:30000", "gpu3:30000", "gpu4:30000"]
