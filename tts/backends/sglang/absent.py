"""Replicas that did not answer when their model was opened, and are taken in when they do."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable

from tts.errors import BackendError, UsageError

PAUSE = 5.0
"""Seconds between two questions whether they are there."""


class Absent:
    """Asks again while there are calls. `add` takes a replica in by its address; `notice` is told who came, and who is
    not one of them."""

    def __init__(
        self,
        urls: Iterable[str],
        add: Callable[[str], Awaitable[None]],
        notice: Callable[[str], None],
        pause: float = PAUSE,
    ) -> None:
        self.urls = list(urls)
        self._add, self._notice, self._pause = add, notice, pause
        self._asked = -math.inf
        self._asking: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Ask those that are missing, unless that was done a moment ago."""
        busy = self._asking is not None and not self._asking.done()
        if self.urls and not busy and time.monotonic() - self._asked > self._pause:
            self._asked = time.monotonic()
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        for url in tuple(self.urls):
            try:
                await self._add(url)
            except BackendError:
                continue
            except UsageError as error:
                self._notice(f"left out: {error}")
            else:
                self._notice(f"{url} answers now, and serves with the others")
            self.urls.remove(url)

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None and not self._asking.done():
            self._asking.cancel()
            await asyncio.wait([self._asking])
