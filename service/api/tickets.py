"""Tickets sent from a thread of their own: the broker's client waits, and the API must not."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Tickets:
    """Counts jobs that are waiting, and sends tickets for all that came while it was sending."""

    def __init__(self, send: Callable[[int], object]) -> None:
        self._send = send
        self._waiting, self._over = 0, False
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="tickets", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, jobs: int) -> None:
        """So many jobs are waiting now."""
        with self._turn:
            self._waiting += jobs
            self._turn.notify()

    def close(self) -> None:
        """Send what is left, and end."""
        with self._turn:
            self._over = True
            self._turn.notify()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._waiting or self._over)
                jobs, self._waiting = self._waiting, 0
                if not jobs:
                    return
            self._send(jobs)
