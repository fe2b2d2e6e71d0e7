"""What happens to a job, read off its journal as it grows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any, NamedTuple

from service.api.news import News
from service.api.schemas import JobView
from service.outcome import anonymous
from service.store import Store
from service.store.nouns import Glimpse
from tts.journal import Chosen, Held, Record, Settled, usage_of
from tts.trace import FINISHER
from tts.types import Problem


class Event(NamedTuple):
    """One event; those that come from the journal have its entry's number."""

    name: str
    data: str
    id: str | None = None


class Follower:
    """Follows one job from an entry of its journal on, to its end. All of the job is looked at twice: first for its
    problem, without which no entry can be read, and at last for its result."""

    def __init__(self, store: Store, news: News, tenant: str, id: str, start: int) -> None:
        self._store, self._news, self._tenant, self._id = store, news, tenant, id
        self._position = start
        self._known: tuple[str, int] | None = None

    async def events(self, heartbeat: float) -> AsyncGenerator[Event | None, None]:
        """Events as they happen; None after so many seconds without one."""
        async with self._news.changes_of(self._id) as changed:
            job = await self._store.job(self._tenant, self._id)
            problem = job.spec.problem if job and job.spec else None
            while True:
                changed.clear()
                seen = await self._store.follow(self._tenant, self._id, self._position, problem)
                for event in self._news_of(seen, problem) if seen else ():
                    yield event
                if seen is None or seen.over:
                    yield await self._last()
                    return
                try:
                    await asyncio.wait_for(changed.wait(), heartbeat)
                except TimeoutError:
                    yield None

    def _news_of(self, seen: Glimpse, problem: Problem | None) -> Iterator[Event]:
        if (seen.state, seen.fence) != self._known and not seen.over:
            self._known = (seen.state, seen.fence)
            yield Event("state", json.dumps({"state": seen.state, "claims": seen.fence}))
        for record in seen.grown:
            told = _told(record, problem)
            if told is not None:
                yield Event(told[0], json.dumps(told[1], ensure_ascii=False), str(self._position))
            self._position += 1

    async def _last(self) -> Event:
        """The job as it ended, if anything is left of it."""
        job = await self._store.job(self._tenant, self._id)
        return Event("result", JobView.of(job).model_dump_json()) if job else Event("purged", "{}")


def _told(record: Record, problem: Problem | None) -> tuple[str, dict[str, Any]] | None:
    """What callers are told of a journal's record."""
    if isinstance(record, Held):
        return "call", {"key": record.key, "role": record.role, "granted": record.granted, "at": record.at}
    if isinstance(record, Settled):
        return "settled", _settled(record, problem)
    if isinstance(record, Chosen):
        return "choice", {"candidates": len(record.candidates), "kept": list(record.kept), "at": record.at}
    return None


def _settled(record: Settled, problem: Problem | None) -> dict[str, Any]:
    usage = usage_of(record)
    told: dict[str, Any] = {
        "key": record.key,
        "role": record.role,
        "outcome": record.outcome,
        "tokens": int(record.spend.tokens),
        "cached_tokens": usage.cached_tokens if usage else 0,
        "at": record.at,
    }
    if record.reason or record.error:
        told["reason"] = record.reason or anonymous(record.error or "")
    if record.segments and problem and record.role == "policy" and not record.key.startswith(FINISHER):
        finish = record.segments[-1].finish
        text = "".join(segment.text for segment in record.segments)
        told |= {"finish": finish, "answer": problem.kind.extract(text, finish == "stop")}
    return told
