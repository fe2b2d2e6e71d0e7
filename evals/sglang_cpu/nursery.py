"""Servers without their imports: one process has imported everything, and forks a server whenever one is asked for.

A server of one's own imports torch and SGLang three times over, in as many processes, before it does anything.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path as File
from typing import IO


class Forked:
    """A server's processes, all of them in the group `process`, and the folder with its log and temporary files."""

    def __init__(self, process: int, folder: tempfile.TemporaryDirectory[str]) -> None:
        self.process, self._folder = process, folder
        self._end: int | None = os.pidfd_open(process)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._ends_within(0)

    def log(self) -> str:
        """What it has printed."""
        return (File(self._folder.name) / "log").read_text(encoding="utf-8", errors="replace")

    def send(self, what: signal.Signals) -> None:
        """A signal to all of its processes."""
        if not self.over:
            with suppress(ProcessLookupError):
                os.killpg(self.process, what)

    def kill(self) -> None:
        """End it at once, and clear away what is left of it."""
        self.send(signal.SIGKILL)
        self._ends_within(None)
        if self._end is not None:
            os.close(self._end)
            self._end = None
        self._folder.cleanup()

    def _ends_within(self, milliseconds: int | None) -> bool:
        if self._end is None:
            return True
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return bool(poll.poll(milliseconds))


class Nursery:
    """Starts the parent of all servers when the first of them is asked for. It ends with us, however we do."""

    def __init__(self, command: Sequence[str], environment: Callable[[], Mapping[str, str]]) -> None:
        self._command, self._environment = command, environment
        self._parent: subprocess.Popen[bytes] | None = None
        self._asking: socket.socket | None = None
        self._printed: IO[bytes] | None = None
        self._turn = threading.Lock()
        atexit.register(self.close)

    def fork(self, arguments: Sequence[str]) -> Forked:
        """A server that was told these. Raises `RuntimeError` where SGLang cannot even be imported."""
        folder = tempfile.TemporaryDirectory(prefix="sglang-", ignore_cleanup_errors=True)
        request = json.dumps({"arguments": arguments, "folder": folder.name})
        with self._turn:
            asking = self._asking or self._open()
            with suppress(ConnectionError):
                asking.sendall(f"{request}\n".encode())
                if process := asking.recv(64):
                    return Forked(int(process), folder)
            folder.cleanup()
            raise RuntimeError(f"SGLang could not be imported:\n{self._said()[-3000:]}")

    def close(self) -> None:
        """End the parent, and with it every server."""
        if self._asking is not None and self._parent is not None and self._printed is not None:
            self._asking.close()
            self._parent.wait()
            self._printed.close()
            self._asking = None

    def _open(self) -> socket.socket:
        self._asking, theirs = socket.socketpair()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the parent
        with theirs:
            self._parent = subprocess.Popen(
                self._command,
                env=self._environment(),
                stdin=theirs.fileno(),
                stdout=self._printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: it ends when we have
            )
        return self._asking

    def _said(self) -> str:
        assert self._printed is not None
        self._printed.seek(0)
        return self._printed.read().decode(errors="replace")
