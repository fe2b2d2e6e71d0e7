"""The loop of a worker: claims jobs while it has room, keeps them alive, brings them to their ends."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from service.metrics.count import Counting
from service.settings import Settings
from service.store import Claim, RedisJournal, StaleLease, Store, Unreachable, heard, stopped
from service.tracing import JobSpan, followed
from service.worker.bench import Bench, Ended
from tts.errors import Suspended
from tts.halt import Halt
from tts.solve import code_version

log = logging.getLogger("tts.worker")
POLL = 1.0
"""Seconds after which a worker with room looks for jobs of which no ticket told it."""
BEATS = 3
"""Heartbeats per lease."""
EXAMINING = 2.0
"""Seconds between two looks at how the models are."""
LETTING_GO = 6.0
"""Seconds until jobs that are handed back have written down what they have; engines answer a halt sooner."""


@dataclass
class Running:
    """A job that this worker has."""

    claim: Claim
    halt: Halt = field(default_factory=Halt)
    task: asyncio.Task[None] | None = None


class Engine:
    """Runs until it is told to stop. `send` sends tickets: it wakes other workers, for as many jobs."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        bench: Bench,
        send: Callable[[int], object] = lambda jobs: None,
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._settings, self._store, self._bench, self._send = settings, store, bench, send
        self._jobs: dict[str, Running] = {}
        self._wanted = 0
        self._health: dict[str, Any] = {}
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()

    def ticket(self, jobs: int) -> None:
        """So many jobs are waiting somewhere."""
        self._wanted += jobs
        self._wake.set()

    def stop(self) -> None:
        """Claim nothing more; what is running may end."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Work until `stop`, then for a while on what there is, and hand back the rest."""
        beside = [asyncio.create_task(each) for each in (self._beat(), self._listen(), self._examine())]
        for task in beside:
            task.add_done_callback(self._broken)
        try:
            await self._claim()
            await self._drain()
        finally:
            await stopped(*beside)
            await self._bench.aclose()
            await self._store.aclose()

    def _broken(self, task: asyncio.Task[None]) -> None:
        """A worker without a heartbeat must not go on: others take its jobs."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the worker stops: %s", error, exc_info=error)
            self.stop()

    async def _claim(self) -> None:
        """Claim as many as tickets told of; now and then as many as there is room for, since a ticket may be lost."""
        while not self._stopping.is_set():
            room = self._settings.jobs_at_once - len(self._jobs)
            wanted = min(room, self._wanted)
            if wanted > 0:
                self._wanted -= wanted
                claims, turns = await self._kept_trying(self._store.claim(self.name, wanted), ([], 0))
                for claim in claims:
                    self._start(claim)
                if turns and len(claims) == wanted:  # more are waiting than tickets told of: one by one takes too long
                    self._wanted = max(self._wanted, 1, (self._settings.jobs_at_once - len(self._jobs)) // 4)
                    continue
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), POLL)
            except TimeoutError:
                self._wanted = self._settings.jobs_at_once

    def _start(self, claim: Claim) -> None:
        running = Running(claim)
        self._jobs[claim.id] = running
        running.task = asyncio.create_task(self._perform(running))

    async def _perform(self, running: Running) -> None:
        claim = running.claim
        try:
            counting = Counting(claim.label, claim.spec.strategy.name, claim.waited)
            journal = RedisJournal(
                self._store.scripts,
                claim.id,
                claim.fence,
                claim.spec.problem,
                counting,
                lambda: running.halt.set("cancelled"),
            )
            with followed(claim) as span:
                ended = await self._worked(running, journal, span)
            result = ended.outcome.model_dump_json().encode() if ended.outcome else b""
            counted = counting.ended(ended.state, ended.outcome, (ended.error or {}).get("code", ""))
            await self._store.finish(claim, ended.state, result, ended.error, counted)
        except StaleLease:
            log.info("job %s went to somebody else", claim.id)
        except Suspended:
            log.info("job %s is handed back", claim.id)
        except Unreachable as error:
            log.warning("job %s is let go: %s", claim.id, error)
        finally:
            if self._jobs.get(claim.id) is running:  # it may have been lost, and claimed again meanwhile
                del self._jobs[claim.id]
            self._wake.set()

    async def _worked(self, running: Running, journal: RedisJournal, span: JobSpan | None) -> Ended:
        """How the job ended; what nobody foresaw makes it a dead letter, and takes nobody else with it."""
        claim = running.claim
        try:
            ended = await self._bench.work(claim.spec, journal, running.halt, span)
            if span is not None:
                span.ended(ended.state, ended.outcome)
            return ended
        except (StaleLease, Unreachable, Suspended, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("job %s is a dead letter", claim.id)
            return Ended("dead", None, {"code": "internal", "detail": f"{type(error).__name__}; see the worker's log"})

    def _held(self) -> dict[str, int]:
        """The jobs that this worker has, and their fences."""
        return {job: running.claim.fence for job, running in self._jobs.items()}

    async def _beat(self) -> None:
        """Renew the leases, and hear which jobs are no longer ours."""
        while True:
            await self._kept_trying(self._renew(), None)
            await asyncio.sleep(self._settings.lease_seconds / BEATS)

    async def _renew(self) -> None:
        held = self._held()
        about = {
            "jobs": len(held),
            "room": self._settings.jobs_at_once,
            "version": code_version(),
            "models": self._health,
        }
        pulse = await self._store.renew(self.name, about, held)
        for job in pulse.stale & self._jobs.keys():
            if self._jobs[job].claim.fence == held[job] and (task := self._jobs[job].task):
                task.cancel()
        for job in pulse.cancelled & self._jobs.keys():
            self._jobs[job].halt.set("cancelled")
        if pulse.requeued:
            self._send(pulse.requeued)
            self.ticket(pulse.requeued)

    async def _examine(self) -> None:
        """Ask now and then how the models are, apart from the heartbeat: one that hangs must not stop it."""
        while True:
            self._health = await self._bench.health()
            await asyncio.sleep(EXAMINING)

    async def _listen(self) -> None:
        """Hear of cancellations at once; the heartbeat tells of those that were missed."""
        async with self._store.redis.pubsub() as channel:
            async for _, id in heard(channel, lambda: ["tts:orders"], "orders", asyncio.Lock()):
                if job := self._jobs.get(id):
                    job.halt.set("cancelled")

    async def _kept_trying(self, coroutine: Coroutine[Any, Any, Any], otherwise: Any) -> Any:
        """What comes of it; `otherwise`, in time for the next attempt, while Redis is away."""
        try:
            return await coroutine
        except Unreachable as error:
            log.warning("%s", error)
            return otherwise

    async def _drain(self) -> None:
        tasks = [running.task for running in self._jobs.values() if running.task]
        if tasks:
            log.info("ending %d jobs", len(tasks))
            await asyncio.wait(tasks, timeout=self._settings.drain_seconds)
        left = self._held()
        if not left:
            return
        # What calls have brought so far is written down, so that whoever goes on loses nothing.
        for running in self._jobs.values():
            running.halt.set("suspended")
        await asyncio.wait(tasks, timeout=LETTING_GO)
        handed = await self._kept_trying(self._store.release(left), 0)
        log.info("%d jobs were handed back", handed)
        self._send(handed)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
