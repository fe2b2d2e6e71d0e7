"""The only writer of spend: budget is reserved before a call and settled after it.

`spent + held ≤ limit` holds at every moment, in every unit; since a grant is also the engine's `max_tokens`,
what is generated can never exceed the budget, however many calls are in flight.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple, Self

from tts.cost import Tariff
from tts.errors import Refused
from tts.halt import Halt
from tts.types import NOTHING, Spend


class Ask(NamedTuple):
    """A request for permission to generate up to `ceiling` tokens after `prompt` prompt tokens. Fewer than
    `floor` are not worth having. A ceiling of zero is permission to read the prompt."""

    tariff: Tariff
    prompt: int
    ceiling: int
    floor: int = 1


class Grant(NamedTuple):
    """What an ask got: so many tokens, which can cost this much at most."""

    tokens: int
    most: Spend


class Hold:
    """Permission to spend. Settle it inside its `with`; one left unsettled is charged in full."""

    def __init__(self, ledger: Ledger, ask: Ask, grant: Grant) -> None:
        self._ledger = ledger
        self.granted, self.most = grant
        self.cut = self.granted < ask.ceiling
        """Whether the budget granted less than was asked for."""
        self._open = True

    def settle(self, spend: Spend) -> None:
        assert self._open, "a hold is settled once"
        self._open = False
        self._ledger.settle(self.most, spend)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            self.settle(self.most)


class Ledger:
    """Grants holds first come, first served.

    A hold gets its whole ceiling as soon as that is free; while other holds are open it waits for them to
    give something back; once none is, it takes what there is, from its floor up, or is refused. (Granting
    every remnant at once would cut the later samples of a batch into pieces too short to end.)
    """

    def __init__(self, limit: Spend, spent: Spend = NOTHING, reserve: int = 0) -> None:
        self.limit, self.spent, self.held = limit, spent, NOTHING
        self.reserve = reserve
        self._open = 0
        self._waiting: deque[tuple[Ask, asyncio.Future[Grant]]] = deque()

    @property
    def free(self) -> Spend:
        limit, spent, held = self.limit, self.spent, self.held
        return Spend(
            limit.tokens - spent.tokens - held.tokens - self.reserve,
            limit.usd - spent.usd - held.usd,
            limit.flops - spent.flops - held.flops,
        )

    async def hold(self, ask: Ask, halt: Halt) -> Hold:
        """`with await ledger.hold(…) as hold:`; raises `Refused` for want of budget or when halted."""
        assert min(1, ask.ceiling) <= ask.floor <= ask.ceiling
        if halt.reason is not None:
            raise Refused(halt.reason)
        grant = None if self._waiting else self.book(ask)
        if grant is None:
            if not self._open:
                raise Refused("budget")
            grant = await self._wait(ask, halt)
        return Hold(self, ask, grant)

    def release_reserve(self) -> None:
        """The search is over: the finisher may have what was set aside for it."""
        self.reserve = 0

    async def _wait(self, ask: Ask, halt: Halt) -> Grant:
        turn: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, turn))
        leave = halt.subscribe(lambda: _refuse(turn, halt))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.settle(turn.result().most, NOTHING)
            raise
        finally:
            leave()

    def book(self, ask: Ask) -> Grant | None:
        """Book the hold and say how much it got; None when it should wait or be refused."""
        tokens = ask.tariff.affordable(ask.prompt, ask.ceiling, self.free)
        most = ask.tariff.ceiling(ask.prompt, tokens)
        if tokens < (ask.ceiling if self._open else ask.floor) or not (tokens or most.within(self.free)):
            return None
        self._open += 1
        self.held = self.held.plus(most)
        return Grant(tokens, most)

    def charge(self, spend: Spend) -> None:
        """What was spent without a grant, because all of it was known before."""
        self.spent = self.spent.plus(spend)

    def settle(self, most: Spend, spend: Spend) -> None:
        """Give back what a grant held, charge what was spent, and serve those who wait."""
        self._open -= 1
        self.held = self.held.minus(most) if self._open else NOTHING
        self.spent = self.spent.plus(spend)
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            ask, turn = self._waiting[0]
            if turn.done():
                self._waiting.popleft()
            elif grant := self.book(ask):
                self._waiting.popleft()
                turn.set_result(grant)
            elif self._open:
                return
            else:
                self._waiting.popleft()
                turn.set_exception(Refused("budget"))


def _refuse(turn: asyncio.Future[Grant], halt: Halt) -> None:
    assert halt.reason is not None
    if not turn.done():
        turn.set_exception(Refused(halt.reason))
