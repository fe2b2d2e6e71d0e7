"""Scripts sent to Redis: those of many jobs together, and again where nobody knows whether they arrived."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache
from pathlib import Path as File
from typing import Any, NamedTuple

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tts.errors import TTSError

AGAIN = 0.05
"""Seconds before a script is sent again, doubled each time up to a second."""
GONE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    OSError,
)
REFUSING = ("MISCONF", "NOREPLICAS", "CLUSTERDOWN", "MASTERDOWN")
"""How a Redis begins that is there, and takes nothing at the moment: its disk is full, or its replicas are away."""


class Unreachable(TTSError):
    """Redis cannot be reached."""


class _Wanted(NamedTuple):
    source: str
    arguments: tuple[Any, ...]
    told: asyncio.Future[Any]


class Scripts:
    """Runs the scripts beside this file. What is asked for while a round trip is under way goes with the next one, all
    of it together: the more there is to do, the less each of it costs.
    """

    def __init__(self, redis: Redis, patience: float) -> None:
        self._redis, self._patience = redis, patience
        self._waiting: list[_Wanted] = []
        self._sender: asyncio.Task[None] | None = None

    async def run(self, name: str, *arguments: str | bytes | int | float) -> Any:
        """What the script says. Raises `Unreachable` when Redis does not answer for too long: it may have heard."""
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Here, where what cannot be sent fails whoever sends it, and nobody else of the same batch.
        sent = tuple(each.encode() if isinstance(each, str) else each for each in arguments)
        self._waiting.append(_Wanted(source(name), sent, told))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        return await told

    async def aclose(self) -> None:
        """Let what was asked for be sent."""
        if self._sender is not None:
            await asyncio.wait([self._sender])

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                replies = await self._insist(batch)
            except GONE as error:
                replies = [Unreachable(f"Redis cannot be reached: {error}")] * len(batch)
            except BaseException as error:
                for wanted in batch:
                    if not wanted.told.done():
                        wanted.told.set_exception(error)
                raise
            for wanted, reply in zip(batch, replies, strict=True):
                _tell(wanted.told, reply)

    async def _insist(self, batch: list[_Wanted]) -> list[Any]:
        """Send until there is an answer, or patience ends."""
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + self._patience, AGAIN
        while True:
            try:
                return await self._sent(batch)
            except GONE:
                if loop.time() + pause > end:
                    raise
            await asyncio.sleep(pause)
            pause = min(1.0, 2 * pause)

    async def _sent(self, batch: list[_Wanted]) -> list[Any]:
        replies = await self._pipe(batch)
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]
        if unknown:  # a Redis that has just been started knows none
            for text in {batch[i].source for i in unknown}:
                await self._redis.script_load(text)
            for i, reply in zip(unknown, await self._pipe([batch[i] for i in unknown]), strict=True):
                replies[i] = reply
        gone = next((reply for reply in replies if _is_gone(reply)), None)
        if gone is not None:
            raise exceptions.ConnectionError(str(gone)) from gone
        return replies

    async def _pipe(self, batch: list[_Wanted]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for wanted in batch:
                pipe.execute_command("EVALSHA", digest(wanted.source), 0, *wanted.arguments)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
            return replies


async def stopped(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended: redis-py swallows a cancellation that comes while it connects."""
    running: set[asyncio.Task[Any]] = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=0.1)
    await asyncio.gather(*tasks, return_exceptions=True)


def _is_gone(reply: Any) -> bool:
    """Whether Redis was not there, or takes nothing just now: a script that was refused has changed nothing."""
    refused = isinstance(reply, exceptions.ResponseError) and str(reply).startswith(REFUSING)
    return refused or isinstance(reply, GONE)


def _tell(told: asyncio.Future[Any], reply: Any) -> None:
    if told.done():  # whoever asked has gone
        return
    if isinstance(reply, Exception):
        told.set_exception(reply)
    else:
        told.set_result(reply)


@cache
def source(name: str) -> str:
    """A script, after what every script begins with."""
    folder = File(__file__).parent
    return (folder / "prelude.lua").read_text("utf-8") + (folder / f"{name}.lua").read_text("utf-8")


@cache
def digest(text: str) -> str:
    """The name by which Redis knows a script."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def connect(url: str) -> Redis:
    """A client that leaves trying again to us. Raises `ValueError` for what is no address of a Redis."""
    return Redis.from_url(
        url, socket_timeout=10, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0), health_check_interval=0
    )
