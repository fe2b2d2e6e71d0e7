"""One server: what it is doing, whether it is well, and the calls made of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from tts.backends.sglang.draft import Draft
from tts.backends.sglang.placement import Speed
from tts.backends.sglang.warmth import SHORT, Chain, Warmth, chain
from tts.backends.sglang.wire import Failure, Said, Wire, generation, said
from tts.errors import UsageError
from tts.halt import Halt

TOLERATED, FIRST_PAUSE, LONGEST_PAUSE = 3, 0.5, 30.0
"""Failures in a row before a server is left alone, and for how many seconds: at first, doubled each time, at most."""
AGAIN = 0.25
"""Seconds between two aborts of a request: the first may come before the request itself."""
BAD_REQUEST = 400
"""As SGLang says it within a stream: of a grammar that cannot be compiled, for one."""
FEWEST_STEPS = 200
"""Decoding steps after which a server's own times are believed: the first ones are slower."""


class Breaker:
    """Leaves a server alone that keeps failing; then one call may try whether it is well again."""

    def __init__(self) -> None:
        self._failures, self._until = 0, 0.0

    @property
    def closed(self) -> bool:
        """Whether calls go through."""
        return self._failures < TOLERATED

    @property
    def resting(self) -> bool:
        """Whether it is too early to ask again."""
        return not self.closed and time.monotonic() < self._until

    def failed(self, *, gone: bool = False) -> None:
        """A call failed; nobody is there any more if it is `gone`. While the server is left alone, only calls fail that
        were on their way before: however many a death hits, it is one."""
        if self.resting:
            return
        self._failures = max(self._failures + 1, TOLERATED if gone else 0)
        pause = FIRST_PAUSE * 2.0 ** (self._failures - TOLERATED)
        self._until = time.monotonic() + min(LONGEST_PAUSE, pause)

    def succeeded(self) -> None:
        self._failures = 0

    def answered(self) -> None:
        """It says that it is well, and may try once."""
        self._failures = min(self._failures, TOLERATED - 1)


class Replica:
    """A server of one model, and our calls on it. `facts` is what `/server_info` says."""

    def __init__(self, wire: Wire, facts: Mapping[str, Any], patience: float) -> None:
        self.wire, self.facts = wire, facts
        self._engines = [wire.to(url) for url in facts.get("workers", (wire.url,))]
        """Whom aborts and questions of load go to: a router passes neither on."""
        self.breaker, self.draining = Breaker(), False
        self.running = self._peak = 0
        self.speed = Speed()
        self.warmth = Warmth(int(facts.get("max_total_num_tokens") or 1 << 20))
        self._capacity = capacity_of(facts)
        self._others = 0
        self.resident: int | None = None
        """Tokens in its KV cache, as it said last."""
        self._patience = patience
        self._limits: set[asyncio.Timeout] = set()
        self._aborts: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return self.wire.url

    @property
    def usable(self) -> bool:
        """Whether new calls may go there."""
        return self.breaker.closed and not self.draining

    @property
    def room(self) -> int:
        """How many more calls it takes: it serves at least one of ours at a time, whatever others ask of it."""
        return max(1, self._capacity - self._others) - self.running

    def enter(self) -> None:
        """One more of our calls."""
        self.running += 1
        self._peak = max(self._peak, self.running)

    def leave(self) -> None:
        """One fewer."""
        self.running -= 1

    async def refresh(self) -> None:
        """Ask how it stands. One that does not answer in time is hung, and what it was doing is called off."""
        try:
            self._learn(await self._loads())
        except (Failure, UsageError, KeyError, TypeError):
            self._call_off()
        else:
            self.breaker.answered()

    async def _loads(self) -> list[Mapping[str, Any]]:
        """What the engine says of its load, and behind a router what each of those that answer says; nothing where they
        answer that they do not say it."""
        asked = (each.get("/v1/loads?include=core", self._patience) for each in self._engines)
        told = await asyncio.gather(*asked, return_exceptions=True)
        loads = [load for each in told if not isinstance(each, BaseException) for load in each["loads"]]
        if not loads and not any(isinstance(each, Failure) and each.answered for each in told):
            raise Failure(f"{self.url} does not answer", started=False)
        return loads

    def _learn(self, loads: list[Mapping[str, Any]]) -> None:
        """Of several engines or data-parallel ranks, the sums. What they say is a little old: calls of ours that have
        ended meanwhile must not be taken for somebody else's."""
        if not loads:
            return
        busy = sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)
        self._others, self._peak = max(0, busy - self._peak), self.running
        self._capacity = sum(load["max_running_requests"] for load in loads) or self._capacity
        self.speed = speed_of(loads[0], self.speed)
        self.resident = sum(load.get("num_used_tokens") or 0 for load in loads)

    def _call_off(self) -> None:
        self.breaker.failed(gone=True)
        self.speed = Speed()  # whoever answers later was started anew
        self.warmth.clear()
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            limit.reschedule(now)

    async def decode(self, draft: Draft, stop_ids: tuple[int, ...]) -> None:
        """Go on with a draft until it has ended. Raises `Failure` when the server did not bring it there; what it had
        delivered is kept."""
        draft.attempts += 1
        warm = self.warmth.known(draft.links)
        deltas = bool(self.facts.get("incremental_streaming_output"))
        body = generation(draft.request, draft.context(), draft.left, stop_ids, draft.interval)
        events: list[bytes] = []
        came = 0
        try:
            async with self._call(draft.id, draft.links, draft.request.halt) as first:
                async for event in self.wire.stream("/generate", {**body, "rid": draft.id}):
                    if not deltas:
                        events.clear()
                    events.append(event)
                    first()
                    came += 1
                    draft.keep(events, came, deltas=deltas)
                    if draft.finish is None and draft.watched(events, deltas=deltas):
                        draft.finish = "watched"
                        self._later(self.abort(draft.id))
                told = said(events, deltas=deltas)
                _check(told, draft)
        except (Failure, ValueError, KeyError, IndexError, TypeError) as error:
            failure = error if isinstance(error, Failure) else Failure(f"{self.url} sent nonsense", started=True)
            draft.lose(_last(events, deltas), started=failure.started)
            raise failure from error
        if told.made and told.cached + SHORT < warm:
            self.warmth.forget(draft.links)  # others have pushed it out of the cache meanwhile
        watched = draft.finish == "watched"
        draft.take(told)
        if watched:
            draft.finish = "watched"
        if draft.finish != "stop":
            self.warmth.add((*draft.links, *_grown(draft)))

    async def ask(self, path: str, body: Mapping[str, Any], id: str, links: Chain, halt: Halt) -> Any:
        """One call that comes back whole."""
        async with self._call(id, links, halt) as first:
            answer = await self.wire.post(path, {**body, "rid": id})
            first()
        return answer

    @asynccontextmanager
    async def _call(self, id: str, links: Chain, halt: Halt) -> AsyncIterator[Any]:
        """The time of one call: it leads those who share its prefix, is aborted when halted, and called off when the
        server is hung."""
        if not self.breaker.closed:  # it failed somebody else while this call waited
            raise Failure(f"{self.url} does not answer any more", started=False)
        led, ended = self.warmth.lead(links), asyncio.Event()

        def first() -> None:
            if led:
                self.warmth.add(links)
                self.warmth.follow(led)
                led.clear()

        leave = halt.subscribe(lambda: self._later(self._aborting(id, ended)))
        try:
            async with asyncio.timeout(None) as limit:
                self._limits.add(limit)
                yield first
        except TimeoutError as error:
            self._later(self.abort(id))
            raise Failure(f"{self.url} does not answer any more", started=True) from error
        except BaseException:
            self._later(self.abort(id))
            raise
        finally:
            ended.set()
            self._limits.discard(limit)
            self.warmth.follow(led)
            leave()

    async def turn(self, links: Chain, halt: Halt) -> None:
        """Wait for whoever is reading what this call would have to read."""
        while halt.reason is None and (leader := self.warmth.leader(links)) is not None:
            await asyncio.wait([leader])

    async def _aborting(self, id: str, ended: asyncio.Event) -> None:
        """Have the engine let go of a request; its stream then ends by itself with what there is."""
        while not ended.is_set():
            await self.abort(id)
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), AGAIN)

    async def abort(self, id: str) -> None:
        """Have the engine let go of a request."""
        # A server that is gone generates nothing either.
        asked = (each.post("/abort_request", {"rid": id}, self._patience) for each in self._engines)
        await asyncio.gather(*asked, return_exceptions=True)

    def let_go(self, id: str) -> None:
        """Abort a request in a moment."""
        self._later(self.abort(id))

    def _later(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def close(self) -> None:
        if self._aborts:
            await asyncio.wait(self._aborts)
        for wire in (self.wire, *self._engines):
            await wire.close()


def _last(events: list[bytes], deltas: bool) -> Said | None:
    """What was delivered before a failure; of garbage nothing."""
    try:
        return said(events, deltas=deltas) if events else None
    except (ValueError, KeyError, IndexError, TypeError):
        return _last(events[:-1], deltas)


def _check(told: Said, draft: Draft) -> None:
    """A stream ends because the model is done or because we said so; an abort of the server's own is a failure, unless
    it says that the request makes no sense: then no other server would take it either."""
    finish = told.finish
    if finish is None:
        raise Failure("a stream ended before its text", started=True)
    ours = draft.finish == "watched" or draft.request.halt.reason is not None
    if finish["type"] == "abort" and finish.get("status_code") == BAD_REQUEST:
        raise UsageError(f"the server refuses the request: {' '.join(str(finish.get('message')).split())}")
    if finish["type"] == "abort" and not ours:
        raise Failure(f"a request was aborted: {finish.get('message')}", started=bool(told.made))


def _grown(draft: Draft) -> Chain:
    """The links of what was generated: whoever goes on from there finds it in the cache."""
    return chain((*draft.parts, draft.ids))[-1:]


def capacity_of(facts: Mapping[str, Any]) -> int:
    """How many requests a server decodes at once."""
    states = facts.get("internal_states") or ()
    known = [state.get("effective_max_running_requests_per_dp") for state in states]
    return sum(each for each in known if each) or int(facts.get("max_running_requests") or 256)


def speed_of(load: Mapping[str, Any], before: Speed) -> Speed:
    """How fast a server has been, by its own sums over decoding steps: steps, streams, microseconds, streams squared,
    streams × microseconds. A straight line through them gives the step and what each stream adds to it."""
    micro = 1e-6
    busy, read = load.get("total_prefill_busy_us") or 0, load.get("total_prefill_uncached_tokens") or 0
    prefill = read / (busy * micro) if busy and read > 1_000 else before.prefill
    steps, streams, took, squares, products, *_ = load.get("decode_moments") or (0, 0, 0, 0, 0)
    spread = steps * squares - streams**2
    if steps < FEWEST_STEPS or spread <= 0:
        return Speed(prefill, before.step, before.stream, before.told)
    stream = max(0.0, (steps * products - streams * took) / spread)
    return Speed(prefill, max(0.0, (took - stream * streams) / steps) * micro, stream * micro, told=True)
