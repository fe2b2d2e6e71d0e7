"""What happens to a job, read off its journal as it grows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, NamedTuple

from service.api.news import News
from service.api.schemas import JobView
from service.outcome import anonymous
from service.store import Store
from service.store.store import Job
from tts.journal import Chosen, Held, Record, Settled, usage_of
from tts.trace import FINISHER
from tts.types import Problem


class Event(NamedTuple):
    """One event; those that come from the journal have its entry's number."""

    name: str
    data: str
    id: str | None = None


class Follower:
    """Follows one job from an entry of its journal on, to its end."""

    def __init__(self, store: Store, news: News, tenant: str, id: str, start: int) -> None:
        self._store, self._news, self._tenant, self._id = store, news, tenant, id
        self._position = start
        self._known: tuple[str, int] | None = None

    async def events(self, heartbeat: float) -> AsyncGenerator[Event | None, None]:
        """Events as they happen; None after so many seconds without one."""
        async with self._news.changes_of(self._id) as changed:
            while True:
                changed.clear()
                job = await self._store.job(self._tenant, self._id)
                if job is None:
                    yield Event("purged", "{}")
                    return
                async for event in self._news_of(job):
                    yield event
                if job.over:
                    yield Event("result", JobView.of(job).model_dump_json())
                    return
                try:
                    await asyncio.wait_for(changed.wait(), heartbeat)
                except TimeoutError:
                    yield None

    async def _news_of(self, job: Job) -> AsyncIterator[Event]:
        if (job.state, job.fence) != self._known and not job.over:
            self._known = (job.state, job.fence)
            yield Event("state", json.dumps({"state": job.state, "claims": job.fence}))
        for record in await self._store.entries(job, self._position):
            told = _told(record, job.spec.problem if job.spec else None)
            if told is not None:
                yield Event(told[0], json.dumps(told[1], ensure_ascii=False), str(self._position))
            self._position += 1


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
