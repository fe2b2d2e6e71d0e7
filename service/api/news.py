"""What Redis tells of jobs, passed on to whoever waits for one of them."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from service.store import GONE, Store, stopped

log = logging.getLogger("tts.api")
AGAIN = 0.5


class News:
    """One subscription for a whole process. It only says that there is something new; what, is for the store to say.
    Whoever waits looks now and then without being told: news may be missed while Redis is away."""

    def __init__(self, store: Store) -> None:
        self._channel = store.redis.pubsub()
        self._ended: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._changed: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
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
                await self._say("subscribe", f"tts:news:{id}")
            yield event
        finally:
            _leave(self._changed, id, event)
            # Whoever leaves may have been cancelled, and can wait for nothing any more.
            task = asyncio.create_task(self._unsubscribe(id))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _unsubscribe(self, id: str) -> None:
        if id not in self._changed:
            await self._say("unsubscribe", f"tts:news:{id}")

    async def _say(self, command: str, topic: str) -> None:
        try:
            await getattr(self._channel, command)(topic)
        except GONE as error:
            log.warning("no news for a moment: %s", error)

    async def _listen(self) -> None:
        away = False
        while True:
            try:
                topics = ["tts:ended", *(f"tts:news:{id}" for id in self._changed)]
                await self._channel.subscribe(*topics)
                async for message in self._channel.listen():
                    away = False
                    self._hear(message)
            except GONE as error:
                if not away:  # once, however long it lasts
                    log.warning("no news until the store is back: %s", error)
                away = True
            await asyncio.sleep(AGAIN)

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] != "message":
            return
        topic = message["channel"].decode()
        ended = topic == "tts:ended"
        waiting = (self._ended if ended else self._changed).get(
            message["data"].decode() if ended else topic.removeprefix("tts:news:"), ()
        )
        for event in waiting:
            event.set()


def _leave(waiting: defaultdict[str, set[asyncio.Event]], id: str, event: asyncio.Event) -> None:
    waiting[id].discard(event)
    if not waiting[id]:
        del waiting[id]
