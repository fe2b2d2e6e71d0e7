"""A one-way signal: calls in flight return what they have, later calls are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from tts.types import Reason


class Halt:
    """Set once, with a reason, and never unset. A child also halts when its parent does."""

    def __init__(self, parent: Halt | None = None) -> None:
        self.reason: Reason | None = None
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._next = 0
        self._patience: dict[asyncio.Task[Any], float] = {}
        self._leave_parent = parent.subscribe(lambda: self._follow(parent)) if parent else None

    def set(self, reason: Reason) -> None:
        if self.reason is not None:
            return
        self.reason = reason
        for task, seconds in self._patience.items():
            asyncio.get_running_loop().call_later(seconds, self._cancel, task)
        callbacks, self._callbacks = list(self._callbacks.values()), {}
        for callback in callbacks:
            callback()

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` when the halt is set, at once if it already is. Returns how to unsubscribe."""
        if self.reason is not None:
            callback()
            return lambda: None
        self._next += 1
        token = self._next
        self._callbacks[token] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(token, None)

        return unsubscribe

    def watch(self, seconds: float) -> asyncio.Task[Any]:
        """Cancel the current task if it is still watched `seconds` after the halt was set. Returns the task."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._patience[task] = seconds
        return task

    def unwatch(self, task: asyncio.Task[Any]) -> None:
        del self._patience[task]

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if task in self._patience:
            task.cancel()

    def close(self) -> None:
        """Stop following the parent."""
        if self._leave_parent is not None:
            self._leave_parent()

    async def wait(self, seconds: float) -> bool:
        """Sleep for `seconds`, or until the halt is set; whether it was."""
        if self.reason is not None or seconds <= 0:
            return self.reason is not None
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        leave = self.subscribe(wake)
        try:
            await asyncio.wait_for(woken, seconds)
        except TimeoutError:
            return False
        finally:
            leave()
        return True

    def _follow(self, parent: Halt) -> None:
        assert parent.reason is not None
        self.set(parent.reason)
