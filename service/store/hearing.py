"""What is published in Redis, heard for as long as anybody wants to hear it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable

from redis.asyncio.client import PubSub

from service.store.connection import GONE

log = logging.getLogger("tts.store")
AGAIN = 0.5
"""Seconds before a Redis that is away is tried again."""


async def heard(
    channel: PubSub, topics: Callable[[], Iterable[str]], missed: str, turn: asyncio.Lock
) -> AsyncGenerator[tuple[str, str], None]:
    """Topic and text of all that is published, without an end. `topics` are asked for again whenever Redis is back.
    Whoever else speaks on the channel does it in `turn`: two that connect it at once leave one connection behind.
    What is published while it is away is not heard later: `missed` names it in the log."""
    away = False
    while True:
        try:
            async with turn:
                await channel.subscribe(*topics())
            async for message in channel.listen():
                away = False
                if message["type"] == "message":
                    yield message["channel"].decode(), message["data"].decode()
        except GONE as error:
            if not away:  # once, however long it lasts
                log.warning("no %s until the store is back: %s", missed, error)
            away = True
        await asyncio.sleep(AGAIN)
