"""Virtual time: an event loop whose clock jumps to the next timer instead of waiting for it.

An hour of simulated latency passes in the milliseconds that its callbacks take, in the same order every time.
That is what makes runs on the `fake` backend reproducible to the last journal entry.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still while callbacks run or other threads and processes work, and jumps when all sleep."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self.hold(future)
        return future

    def hold(self, future: asyncio.Future[Any]) -> None:
        """Keep the clock still until `future`, which something outside this loop completes, is done."""
        self._jumping.outside += 1
        future.add_done_callback(self._release)

    def _release(self, _: asyncio.Future[Any]) -> None:
        self._jumping.outside -= 1


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.outside = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.outside or timeout is None:
            return super().select(None if timeout is None or timeout > 0 else 0)
        ready = super().select(0)
        if not ready:
            self.now += max(0.0, timeout)
        return ready


async def outside(future: Future[T]) -> T:
    """Await work done in another process; virtual time does not pass meanwhile."""
    wrapped = asyncio.wrap_future(future)
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        loop.hold(wrapped)
    return await wrapped


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
