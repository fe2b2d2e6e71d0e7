"""When the calls to one provider may start, and how a call ends at a halt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

from tts.halt import Halt

LONGEST_PAUSE = 30.0
"""Seconds between two attempts where the provider does not say how long to wait."""


class Gate:
    """At most `concurrency` calls at once, at most `rpm` starts a minute, evenly spaced; a pause is for all of them."""

    def __init__(self, concurrency: int, rpm: int | None) -> None:
        self.places = asyncio.Semaphore(concurrency)
        self._interval = 60 / rpm if rpm else 0.0
        self._opens = 0.0

    def pause(self, seconds: float) -> None:
        """Let nobody start for so long."""
        self._opens = max(self._opens, time.monotonic() + seconds)

    async def turn(self) -> None:
        """Wait until a call may start."""
        while (wait := self._opens - time.monotonic()) > 0:  # noqa: ASYNC110  others may move the moment meanwhile
            await asyncio.sleep(wait)
        self._opens = time.monotonic() + self._interval


@asynccontextmanager
async def until(halt: Halt) -> AsyncIterator[None]:
    """Cancel what is inside when the halt is set, and raise `TimeoutError` for it."""
    async with asyncio.timeout(None) as limit:

        def fall_due() -> None:
            if not limit.expired():
                limit.reschedule(0)

        leave = halt.subscribe(fall_due)
        try:
            yield
        finally:
            leave()


def pause_after(error: Any, attempt: int) -> float:
    """Seconds: those of `Retry-After`, a number or a date, else more with every attempt."""
    headers = getattr(error, "litellm_response_headers", None) or getattr(error.response, "headers", {})
    said = headers.get("retry-after", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return min(2.0**attempt, LONGEST_PAUSE)
