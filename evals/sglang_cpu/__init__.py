"""SGLang on a processor without a GPU: a real server for the lab's models, to try things on and to test with.

    make sglang
    python -m evals.sglang_cpu evals/lab/models/chain-2m --port 30000

It computes in float32 on torch, without SGLang's compiled kernels (`shim/` stands in for them), so its speed says
nothing about a GPU's; what it counts and how it answers are the same.
"""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path as File
from typing import Self

from evals.sglang_cpu.nursery import Forked, Nursery

HERE = File(__file__).parent
PYTHON = HERE.parents[1] / ".sglang" / "bin" / "python"
"""Built by `make sglang`."""
STARTING = 180.0
"""Seconds until a server that is not ready has failed; on idle cores it takes two."""
FLAGS = (
    *("--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"),
    *("--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
    *("--disable-cuda-graph", "--disable-overlap-schedule", "--skip-server-warmup"),
    *("--mem-fraction-static", "0.2", "--max-total-tokens", "65536"),
    *("--enable-metrics", "--enable-cache-report", "--sleep-on-idle"),
)
"""Of these, real deployments want `--enable-metrics` and `--enable-cache-report` too."""
SETTINGS = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "SGLANG_RETURN_ORIGINAL_LOGPROB": "1",
    # Threads that wait for each other beside another busy process are a hundred times slower than one.
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "SGLANG_EXTERNAL_MODEL_PACKAGE": "sglang_models",
    "PYTHONPATH": os.pathsep.join((str(HERE / "shim"), str(HERE.parents[1] / "service" / "deploy"))),
}


def arguments(model: File, port: int, more: Sequence[str] = ()) -> list[str]:
    """What a server is told."""
    return ["--model-path", str(model.resolve()), "--port", str(port), *FLAGS, *more]


def environment() -> dict[str, str]:
    """What it is started in."""
    return {**os.environ, **SETTINGS}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


NURSERY = Nursery([str(PYTHON), "-P", str(HERE / "parent.py")], environment)


class Server:
    """A server in processes of its own: `with Server(model) as server:` waits until it is ready."""

    def __init__(self, model: File, *flags: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = arguments(model, self.port, flags)
        self._forked: Forked | None = None

    def start(self) -> Self:
        """Start, anew if it has run before, and do not wait. The first of all takes the imports' time."""
        self.kill()
        self._forked = NURSERY.fork(self._arguments)
        return self

    def ready(self) -> Self:
        """Wait until it serves. Raises `RuntimeError` with the end of its log where it does not."""
        assert self._forked is not None
        until = time.monotonic() + STARTING
        while time.monotonic() < until and not self.over:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=30.0).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
            else:
                return self
        raise RuntimeError(f"no server at {self.url}:\n{self._forked.log()[-3000:]}")

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._forked is not None and self._forked.over

    def send(self, what: signal.Signals) -> None:
        """A signal to all of its processes."""
        if self._forked is not None:
            self._forked.send(what)

    def kill(self) -> None:
        """End it at once."""
        if self._forked is not None:
            self._forked.kill()

    def counted(self, name: str, **labels: str) -> int:
        """A counter's sum over those of its rows that carry these labels, as `/metrics` has it now."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30.0) as page:
            rows = page.read().decode().splitlines()
        found = [row for row in rows if row.startswith(f"{name}{{") and all(each in row for each in wanted)]
        return int(sum(float(row.rpartition(" ")[2]) for row in found))

    def __enter__(self) -> Self:
        return self.start().ready()

    def __exit__(self, *_: object) -> None:
        self.kill()
