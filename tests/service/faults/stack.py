"""The whole service in processes of its own, any of which can be killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path as File

import httpx

from evals.sglang_cpu import free_port
from service.settings import Settings
from service.store import Store
from service.up import Part, valkey

US = (sys.executable, "-m", "service")


class Stack:
    """A Valkey, some APIs and workers. A part that is killed is started again at once, as a supervisor would."""

    def __init__(
        self,
        folder: File,
        backend: str,
        *,
        workers: int = 2,
        apis: int = 1,
        config: File | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        store, self.redis_url = valkey(folder)
        self.ports = [free_port() for _ in range(apis)]
        environment = {
            "TTS_REDIS_URL": self.redis_url,
            "TTS_DEFAULT_MODEL": backend,
            "TTS_JOBS_AT_ONCE": "32",
            "TTS_DRAIN_SECONDS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
            **({"TTS_CONFIG": str(config)} if config else {}),
            **(settings or {}),
        }
        self.parts = {
            "valkey": [store],
            "worker": [Part("worker", [*US, "worker"], environment) for _ in range(workers)],
            "api": [Part("API", [*US, "api", "--port", str(port)], environment) for port in self.ports],
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def store(self) -> Store:
        """What looks into the store from here."""
        return Store(Settings(redis_url=self.redis_url, patience_seconds=30.0))

    def kill(self, kind: str, number: int) -> int:
        """Kill -9, and start again; the process that was killed."""
        part = self.parts[kind][number % len(self.parts[kind])]
        killed = part.pid
        part.signal(signal.SIGKILL)
        part.start()
        return killed

    def stop_one(self, kind: str, number: int) -> None:
        """Ask a part to end, and wait until it has."""
        self.parts[kind][number % len(self.parts[kind])].stop(20.0)

    def start_one(self, kind: str, number: int) -> None:
        """Start it again, from the main thread: a part ends together with the thread that started it."""
        self.parts[kind][number % len(self.parts[kind])].start()

    def start(self) -> None:
        for parts in self.parts.values():
            for part in parts:
                part.start()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2).json()["workers"] == len(self.parts["worker"]):
                    return
            except (httpx.HTTPError, ValueError, KeyError):
                pass
            time.sleep(0.1)
        raise AssertionError("the service did not get ready")

    def stop(self) -> None:
        for kind in ("api", "worker", "valkey"):
            for part in self.parts[kind]:
                part.stop(20.0)


@contextmanager
def running(stack: Stack) -> Iterator[Stack]:
    """Start all of it, and stop all of it."""
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
