"""One thread that works on a batch, and the queue before it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

import torch

from tts.backends.base import Reading, Request
from tts.errors import BackendError
from tts.types import Finish


class Halting:
    """A row that ends early where its halt is set, or where nobody waits for it any more."""

    request: Request | Reading
    finish: Finish | None
    abandoned: bool

    @property
    def over(self) -> bool:
        """Whether it has to end now, with what it has."""
        if self.finish is None and (self.abandoned or self.request.halt.reason is not None):
            self.finish = "halted"
        return self.finish == "halted"


class Place(Protocol):
    """A row of a batch: somebody's request on its way."""

    abandoned: bool
    made: int

    @property
    def over(self) -> bool:
        """Whether it has to end now, with what it has."""
        ...


Places = TypeVar("Places", bound=Place)


class Steps(Protocol[Places]):
    """A batch: rows that are worked on together."""

    @property
    def rows(self) -> Sequence[Places]:
        """The rows that are not through."""
        ...

    def step(self, joining: list[Places]) -> None: ...

    def clear(self) -> None: ...


class Lane(Generic[Places]):
    """Steps its batch for as long as somebody waits for a row of it, on `threads` processor cores."""

    def __init__(self, name: str, batch: Steps[Places], max_rows: int, threads: int) -> None:
        self.batch = batch
        self.waiting: deque[tuple[Places, asyncio.Future[None]]] = deque()
        self.running: dict[Places, asyncio.Future[None]] = {}
        self.driver: asyncio.Task[None] | None = None
        # How many threads a product uses is the calling thread's own setting.
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="decode", initializer=_use, initargs=(threads,))
        self.generated = 0
        self._name, self._max_rows = name, max_rows

    async def finish(self, row: Places) -> None:
        """Return when the row has ended, for whatever reason."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((row, future))
        if self.driver is None or self.driver.done():
            self.driver = asyncio.create_task(self._drive())
        try:
            await future
        except asyncio.CancelledError:
            row.abandoned = True
            raise

    async def _drive(self) -> None:
        """Step the batch, in its own thread, until nobody waits for anything."""
        while self.waiting or self.running:
            await asyncio.sleep(0)  # requests made at the same moment join at the same step
            try:
                await self._step(self._places())
            except BackendError as error:
                self._fail(error)
            self._settle()

    async def _step(self, joining: list[Places]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self.thread, self.batch.step, joining)
        except Exception as error:  # out of memory, a broken shape, somebody's `watch`: nobody may wait for ever
            raise BackendError(f"{self._name}: {error}") from error

    def _places(self) -> list[Places]:
        """Who joins now: as many as there is room for, and all whom the step will only tell to go."""
        waiting, self.waiting = self.waiting, deque()
        joining = []
        for row, future in waiting:
            if len(self.running) < self._max_rows or row.over:
                self.running[row] = future
                joining.append(row)
            else:
                self.waiting.append((row, future))
        return joining

    def _fail(self, error: BackendError) -> None:
        """A step that broke takes the whole batch with it; nobody knows what its rows had cost."""
        self.batch.clear()
        for future in self.running.values():
            if not future.done():
                future.set_exception(error)

    def _settle(self) -> None:
        """Answer for every row that is no longer in the batch, also where it left in a step that nobody awaited:
        the one that runs on when its event loop is closed."""
        staying = set(self.batch.rows)
        for row in [row for row in self.running if row not in staying]:
            self.generated += row.made
            future = self.running.pop(row)
            if not future.done():
                future.set_result(None)


def _use(threads: int) -> None:
    torch.set_num_threads(threads)
