"""Mistakes of whoever starts the service are one line each, before anything is started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as File

import httpx
import pytest

from evals.sglang_cpu import free_port

US = (sys.executable, "-m", "service")
BAD_FIELD = '[models.x]\nbackend = "local"\nstratgy = "best_of_n"\n'
BAD_STRATEGY = '[models.x]\nbackend = "local"\nstrategy = "bestofn"\n'


def ran(folder: File, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **settings}
    return subprocess.run([*US, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", ["up", "api", "worker"])
@pytest.mark.parametrize(
    ("profiles", "settings", "said"),
    [
        (BAD_FIELD, {}, "did you mean 'strategy'"),
        (BAD_STRATEGY, {}, "[models.x] of the profiles: unknown strategy 'bestofn'"),
        ("", {"TTS_AUTH": "key"}, "TTS_AUTH=key"),
        ("", {"TTS_DEFAULT_MODEL": "lokal"}, "did you mean 'local'"),
        ("", {"TTS_REDIS_URL": "localhost"}, "TTS_REDIS_URL=localhost"),
        (
            "",
            {"TTS_REDIS_URL": "redis://:secret@127.0.0.1:1/0", "TTS_PATIENCE_SECONDS": "0.2"},
            "no Redis at TTS_REDIS_URL=redis://:***@127.0.0.1:1/0",
        ),
    ],
)
def test_what_cannot_be_started_says_so_in_one_line(
    tmp_path: File, command: str, profiles: str, settings: dict[str, str], said: str
) -> None:
    (tmp_path / "tts.toml").write_text(profiles)
    port = () if command == "worker" else ("--port", str(free_port()))
    told = ran(tmp_path, command, *port, **settings)
    assert told.returncode == 2
    assert said in told.stderr
    assert told.stderr.count("\n") == 1
    assert "secret" not in told.stderr + told.stdout


@pytest.mark.parametrize("command", ["up", "api"])
def test_a_port_that_is_taken_is_refused_and_not_tried_for_ever(tmp_path: File, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = ran(tmp_path, command, "--port", str(port))
    assert told.returncode == 2
    assert f"port {port} is in use" in told.stderr


@contextmanager
def up(folder: File, port: int) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TTS_DRAIN_SECONDS": "20"}
    command = [*US, "up", "--backend", "fake:tests.handlers:slow", "--workers", "2", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2).json()["workers"] == 2:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_it_stops_when_what_was_running_has_ended_and_keys_need_no_address_in_its_folder(tmp_path: File) -> None:
    port = free_port()
    with up(tmp_path, port) as process:
        key = ran(tmp_path, "keys", "create", "acme").stdout.strip()
        assert key.startswith("tts-")
        assert "tokens 500" in ran(tmp_path, "keys", "limit", "acme", "--tokens", "500").stdout
        assert ran(tmp_path, "keys", "limit", "acme").stdout == "tokens 500, period day\n"
        body = {"problem": "2 + 2?", "answer": "maths", "strategy": "best_of_n:n=2", "budget": {"tokens": 400}}
        headers = {"Authorization": f"Bearer {key}"}
        job = httpx.post(f"http://127.0.0.1:{port}/v1/jobs", json=body, headers=headers).json()["id"]
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "tts: stopped" in told
    with up(tmp_path, port):
        found = httpx.get(f"http://127.0.0.1:{port}/v1/jobs/{job}", headers=headers).json()
        assert found["state"] == "done"
        assert found["result"]["bill"]["lost"] == 0


def test_told_twice_it_stops_at_once(tmp_path: File) -> None:
    port = free_port()
    with up(tmp_path, port) as process:
        body = {"problem": "2 + 2?", "answer": "maths", "strategy": "best_of_n:n=8", "budget": {"tokens": 600}}
        httpx.post(f"http://127.0.0.1:{port}/v1/jobs", json=body)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert time.monotonic() - began < 10
        assert "stopped at once" in told
        assert "spent" not in told
