"""The replicas of one model: who serves what, who is well, who comes and goes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tts.backends.base import Health
from tts.backends.sglang.placement import Speed, Standing, choose
from tts.backends.sglang.replica import Replica
from tts.backends.sglang.warmth import Chain
from tts.errors import BackendError, UsageError
from tts.halt import Halt
from tts.types import Usage

INTERVAL = 1.0
"""Seconds between two looks at a replica that is in use."""


@dataclass(eq=False)
class Errand:
    """A call that looks for a replica: the conversation that it belongs to, what it has to read, and how many tokens
    it will decode."""

    conversation: str
    links: Chain
    tokens: float
    halt: Halt
    failed: set[Replica] = field(default_factory=set)
    """Where it has failed: it goes elsewhere if it can."""
    place: asyncio.Future[Replica | None] = field(init=False)

    @property
    def length(self) -> int:
        return self.links[-1].length

    def give_up(self) -> None:
        """Look no longer."""
        if not self.place.done():
            self.place.set_result(None)


class Fleet:
    """Gives every errand a replica with room for it, in the order of their coming; those that come at the same moment
    and belong to one conversation are placed together."""

    def __init__(self, replicas: Iterable[Replica], patience: float) -> None:
        self.replicas = list(replicas)
        self._gone: list[Replica] = []
        self._patience = patience
        self._waiting: list[Errand] = []
        self._placing: asyncio.Handle | None = None
        self._giving_up: asyncio.TimerHandle | None = None
        self._watches: dict[Replica, asyncio.Task[None]] = {}
        self._lost = False

    @property
    def gone(self) -> str | None:
        """Why there is nobody to ask, from when a call has waited in vain until a replica says that it is well."""
        urls = ", ".join(each.url for each in self.replicas) or "none is left"
        return f"no replica answers ({urls})" if self._lost else None

    async def place(self, errand: Errand) -> Replica | None:
        """A replica, to be left with `leave`; None where the halt came first. Raises `BackendError` when none is well
        for as long as patience lasts, and from then on at once."""
        if self._lost:
            self._watch()
            raise self._nobody()
        errand.place = asyncio.get_running_loop().create_future()
        self._waiting.append(errand)
        self._watch()
        self._soon()
        unsubscribe = errand.halt.subscribe(errand.give_up)
        try:
            return await errand.place
        except asyncio.CancelledError:
            if errand.place.done() and not errand.place.cancelled() and (replica := errand.place.result()):
                self.leave(replica)
            raise
        finally:
            unsubscribe()

    def leave(self, replica: Replica) -> None:
        """A call is through."""
        replica.leave()
        if replica.draining and not replica.running and replica in self.replicas:
            self.replicas.remove(replica)
            self._gone.append(replica)
        self._soon()

    def add(self, replica: Replica) -> None:
        """One more, from now on."""
        self.replicas.append(replica)
        self._lost = False
        self._soon()

    def drain(self, url: str) -> Replica:
        """Give a replica nothing new; it goes when it is through with what it has."""
        for replica in self.replicas:
            if replica.url == url:
                replica.draining = True
                replica.enter()
                self.leave(replica)
                return replica
        raise UsageError(f"{url} is none of the replicas: {', '.join(each.url for each in self.replicas)}")

    async def health(self) -> dict[str, Health]:
        """How each replica is; those that nobody asks anything are asked how they are."""
        idle = [each for each in self.replicas if not each.running and not each.breaker.resting]
        await asyncio.gather(*(each.refresh() for each in idle))
        return {each.url: Health(each.breaker.closed, each.resident) for each in self.replicas}

    async def close(self) -> None:
        for handle in (self._placing, self._giving_up):
            if handle is not None:
                handle.cancel()
        for task in self._watches.values():
            task.cancel()
        if self._watches:
            await asyncio.wait(self._watches.values())
        for replica in (*self.replicas, *self._gone):
            await replica.close()

    def _soon(self) -> None:
        """Place what waits once everybody who comes now has come."""
        if self._placing is None and self._waiting:
            self._placing = asyncio.get_running_loop().call_soon(self._place_all)

    def _place_all(self) -> None:
        self._placing = None
        waiting = [errand for errand in self._waiting if not errand.place.done()]
        together: defaultdict[str, list[Errand]] = defaultdict(list)
        for errand in waiting:
            together[errand.conversation].append(errand)
        for errands in together.values():
            self._assign(errands)
        self._waiting = [errand for errand in waiting if not errand.place.done()]
        usable = any(replica.usable for replica in self.replicas)
        if self._waiting and not usable and self._giving_up is None:
            self._giving_up = asyncio.get_running_loop().call_later(self._patience, self._give_up)

    def _assign(self, errands: Sequence[Errand]) -> None:
        """Choose replicas for a conversation and divide its errands between them, each to where least of it is cold."""
        share = self._choose(errands)
        quota = -(-len(errands) // len(share)) if share else 0
        given: defaultdict[Replica, int] = defaultdict(int)
        for errand in errands:
            able = [each for each in share if each.room > 0 and given[each] < quota]
            able = [each for each in able if each not in errand.failed] or able
            if not able:
                continue
            replica = min(able, key=lambda each: (errand.length - each.warmth.known(errand.links), given[each]))
            given[replica] += 1
            replica.enter()
            errand.place.set_result(replica)

    def _choose(self, errands: Sequence[Errand]) -> list[Replica]:
        shunned = set.intersection(*(errand.failed for errand in errands))
        usable = {each.url: each for each in self.replicas if each.usable}
        usable = {url: each for url, each in usable.items() if each not in shunned} or usable
        told = min((each.speed for each in usable.values() if each.speed.told), key=_pace, default=Speed())
        standings = [
            Standing(url, each.running, each.room, _cold(each, errands), each.speed if each.speed.told else told)
            for url, each in usable.items()
        ]
        tokens = sum(errand.tokens for errand in errands) / len(errands)
        return [usable[chosen.name] for chosen in choose(errands[0].conversation, standings, len(errands), tokens)]

    def _give_up(self) -> None:
        """Nobody has been well for long enough."""
        self._giving_up = None
        if any(replica.usable for replica in self.replicas):
            return
        self._lost = True
        for errand in self._waiting:
            if not errand.place.done():
                errand.place.set_exception(self._nobody())
        self._waiting = []

    def _nobody(self) -> BackendError:
        return BackendError(str(self.gone), Usage.none())

    def _watch(self) -> None:
        """Look after every replica as long as there is anything to do, and while all are lost."""
        for replica in self.replicas:
            task = self._watches.get(replica)
            if task is None or task.done():
                self._watches[replica] = asyncio.get_running_loop().create_task(self._look_after(replica))

    async def _look_after(self, replica: Replica) -> None:
        while self._lost or self._waiting or any(each.running for each in self.replicas):
            if not replica.breaker.resting:
                await replica.refresh()
                self._lost = self._lost and not replica.usable
                self._soon()
            await asyncio.sleep(INTERVAL if replica.breaker.closed else INTERVAL / 4)


def _pace(speed: Speed) -> float:
    """What decoding takes."""
    return speed.decoding(1, 1)


def _cold(replica: Replica, errands: Sequence[Errand]) -> float:
    """How many tokens of its prompt a replica would have to read for an errand of these, on the mean."""
    return sum(errand.length - replica.warmth.known(errand.links) for errand in errands) / len(errands)
