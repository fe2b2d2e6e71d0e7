"""What is published in Redis, as those hear it who listen all the time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as Gone

from service.store import Store, heard, hearing
from tests.service.serving import until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "AGAIN", 0.01)


async def listened(valkey: Redis, topic: str) -> None:
    """Wait until somebody listens."""

    async def there() -> bool:
        return bool(valkey.pubsub_numsub(topic)[0][1])

    await until(there)


async def test_what_is_published_is_heard_also_after_a_connection_that_broke_and_on_other_topics_then(
    store: Store, valkey: Redis
) -> None:
    topics = list[str]()
    async with (
        store.redis.pubsub() as channel,
        aclosing(heard(channel, lambda: topics, "news", asyncio.Lock())) as told,
    ):
        for topic in ("one", "two"):
            topics.append(topic)
            valkey.client_kill_filter(_type="pubsub")
            heard_next = asyncio.ensure_future(anext(told))
            await listened(valkey, topic)
            valkey.publish(topic, "text")
            assert await heard_next == (topic, "text")


class Away:
    """A Redis that comes back for one message now and then."""

    def __init__(self) -> None:
        self.tries = 0

    async def subscribe(self, *topics: str) -> None:
        self.tries += 1
        if self.tries % 5:
            raise Gone("away")

    async def listen(self) -> AsyncIterator[dict[str, Any]]:
        yield {"type": "subscribe", "channel": b"one", "data": 1}
        yield {"type": "message", "channel": b"one", "data": b"back"}
        raise Gone("away again")


async def test_each_absence_is_logged_once_however_long_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    away: Any = Away()
    with caplog.at_level(logging.WARNING):
        async with aclosing(heard(away, lambda: ["one"], "news", asyncio.Lock())) as told:
            assert [await anext(told) for _ in range(2)] == [("one", "back")] * 2
    assert away.tries == 10
    assert [each.getMessage() for each in caplog.records] == [
        "no news until the store is back: away",
        "no news until the store is back: away again",
    ]
