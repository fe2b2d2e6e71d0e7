"""What Redis tells of jobs, passed on to whoever waits for one of them."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from service.store import GONE, Store, heard, stopped

log = logging.getLogger("tts.api")
ENDED, CHANGED = "tts:ended", "tts:news:"
"""Topics: the end of any job, its id as text; and, before a job's id, whatever is new of it."""


class News:
    """One subscription for a whole process. It only says that there is something new; what, is for the store to say.
    Whoever waits looks now and then without being told: news may be missed while Redis is away."""

    def __init__(self, store: Store) -> None:
        self._channel = store.redis.pubsub()
        self._ended: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._changed: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._listen())

    async def aclose(self) -> None:
        if self._task is not None:
            await stopped(self._task, *self._leaving)
        await self._channel.aclose()  # type: ignore[no-untyped-call]

    @contextmanager
    def end_of(self, id: str) -> Iterator[asyncio.Event]:
        """Set when the job has ended."""
        event = asyncio.Event()
        self._ended[id].add(event)
        try:
            yield event
        finally:
            _leave(self._ended, id, event)

    @asynccontextmanager
    async def changes_of(self, id: str) -> AsyncIterator[asyncio.Event]:
        """Set whenever something is new of the job."""
        event, alone = asyncio.Event(), id not in self._changed
        self._changed[id].add(event)
        try:
            if alone:
                await self._say("subscribe", f"{CHANGED}{id}")
            yield event
        finally:
            _leave(self._changed, id, event)
            # Whoever leaves may have been cancelled, and can wait for nothing any more.
            task = asyncio.create_task(self._unsubscribe(id))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _unsubscribe(self, id: str) -> None:
        if id not in self._changed:
            await self._say("unsubscribe", f"{CHANGED}{id}")

    async def _say(self, command: str, topic: str) -> None:
        try:
            async with self._turn:
                await getattr(self._channel, command)(topic)
        except GONE as error:
            log.warning("no news for a moment: %s", error)

    async def _listen(self) -> None:
        async for topic, text in heard(self._channel, self._topics, "news", self._turn):
            waiting, id = (self._ended, text) if topic == ENDED else (self._changed, topic.removeprefix(CHANGED))
            for event in waiting.get(id, ()):
                event.set()

    def _topics(self) -> list[str]:
        return [ENDED, *(f"{CHANGED}{id}" for id in self._changed)]


def _leave(waiting: defaultdict[str, set[asyncio.Event]], id: str, event: asyncio.Event) -> None:
    waiting[id].discard(event)
    if not waiting[id]:
        del waiting[id]
