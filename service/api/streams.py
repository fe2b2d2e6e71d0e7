"""Event streams, of jobs and of completions: so many at once as a process may have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api.problems import Fault


class Streams:
    """Counts those of one process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.open = 0

    def seat(self) -> ExitStack:
        """A place for one more stream, until it is closed. Raises `Fault` where all are taken."""
        if self.open >= self._most:
            raise Fault(429, "streams", f"{self._most} streams are open already", wait=5)
        self.open += 1
        seat = ExitStack()
        seat.callback(self._leave)
        return seat

    def _leave(self) -> None:
        self.open -= 1


class EventStream(StreamingResponse):
    """Server-sent events. Its seat is given back however it ends: an iterator that was never begun would not do so."""

    def __init__(self, events: AsyncIterator[bytes], seat: ExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._seat = seat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._seat:
            await super().__call__(scope, receive, send)
