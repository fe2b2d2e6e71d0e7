from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.backends.fake import FAKE
from tts.clock import run_virtual
from tts.cost import Price, Tariff
from tts.errors import Refused
from tts.halt import Halt
from tts.ledger import Ask, Ledger
from tts.types import NOTHING, Spend

TARIFF = Tariff(FAKE)
UNLIMITED = Spend(math.inf, math.inf, math.inf)


def tokens(amount: float) -> Spend:
    return Spend(amount, math.inf, math.inf)


def ask(ceiling: int, floor: int = 1) -> Ask:
    return Ask(TARIFF, prompt=10, ceiling=ceiling, floor=floor)


def run(main: Coroutine[Any, Any, None]) -> None:
    run_virtual(main)


def test_a_hold_gets_its_ceiling_and_gives_back_what_it_did_not_use() -> None:
    async def main() -> None:
        ledger = Ledger(tokens(100))
        with await ledger.hold(ask(60), Halt()) as hold:
            assert (hold.granted, ledger.free.tokens) == (60, 40)
            hold.settle(Spend(25, 0.0, 0.0))
        assert (ledger.spent.tokens, ledger.free.tokens, ledger.held) == (25, 75, NOTHING)

    run(main())


def test_a_hold_left_unsettled_is_charged_in_full() -> None:
    async def main() -> None:
        ledger = Ledger(tokens(100))
        with pytest.raises(ZeroDivisionError), await ledger.hold(ask(60), Halt()):
            raise ZeroDivisionError
        assert ledger.spent.tokens == 60

    run(main())


def test_a_hold_is_settled_once() -> None:
    async def main() -> None:
        with await Ledger(tokens(100)).hold(ask(60), Halt()) as hold:
            hold.settle(NOTHING)
            with pytest.raises(AssertionError):
                hold.settle(NOTHING)

    run(main())


def test_holds_wait_for_their_whole_ceiling_in_the_order_in_which_they_asked() -> None:
    async def main() -> None:
        ledger, order = Ledger(tokens(100)), []

        async def call(name: str, ceiling: int, used: int) -> None:
            with await ledger.hold(ask(ceiling), Halt()) as hold:
                order.append((name, hold.granted))
                await asyncio.sleep(1)
                hold.settle(Spend(used, 0.0, 0.0))

        await asyncio.gather(call("a", 80, 10), call("b", 50, 50), call("c", 10, 10))
        # c would have fitted at once, but b was there first
        assert order == [("a", 80), ("b", 50), ("c", 10)]

    run(main())


def test_the_last_one_waiting_gets_the_remnant_once_nothing_else_is_open() -> None:
    async def main() -> None:
        ledger, granted = Ledger(tokens(100)), []

        async def call() -> None:
            with await ledger.hold(ask(80, floor=15), Halt()) as hold:
                granted.append(hold.granted)
                await asyncio.sleep(1)
                hold.settle(Spend(hold.granted, 0.0, 0.0))

        results = await asyncio.gather(call(), call(), call(), return_exceptions=True)
        assert granted == [80, 20]
        assert isinstance(results[2], Refused)

    run(main())


def test_less_than_the_floor_is_refused_for_want_of_budget() -> None:
    async def main() -> None:
        with pytest.raises(Refused) as refusal, await Ledger(tokens(7)).hold(ask(80, floor=8), Halt()):
            pass
        assert refusal.value.reason == "budget"

    run(main())


def test_a_halt_refuses_those_who_wait_and_those_who_come_later() -> None:
    async def main() -> None:
        ledger, halt = Ledger(tokens(100)), Halt()

        async def call() -> None:
            with await ledger.hold(ask(100), halt) as hold:
                await asyncio.sleep(1)
                hold.settle(NOTHING)

        calls = [asyncio.create_task(call()) for _ in range(3)]
        await asyncio.sleep(0.5)
        halt.set("cancelled")
        first, second, third = await asyncio.gather(*calls, return_exceptions=True)
        assert first is None
        assert isinstance(second, Refused)
        assert isinstance(third, Refused)
        with pytest.raises(Refused):
            await call()
        assert ledger.free.tokens == 100

    run(main())


def test_a_waiting_call_that_is_cancelled_takes_nothing_with_it() -> None:
    async def main() -> None:
        ledger = Ledger(tokens(100))

        async def call() -> None:
            with await ledger.hold(ask(100), Halt()) as hold:
                await asyncio.sleep(1)
                hold.settle(NOTHING)

        first, second, third = (asyncio.create_task(call()) for _ in range(3))
        await asyncio.sleep(0.5)
        second.cancel()
        await asyncio.gather(first, third)
        assert ledger.free.tokens == 100
        assert second.cancelled()

    run(main())


def test_a_grant_that_arrives_together_with_a_cancellation_is_given_back() -> None:
    async def main() -> None:
        ledger = Ledger(tokens(100))
        with await ledger.hold(ask(100), Halt()) as hold:
            waiter = asyncio.create_task(_hold_for_ever(ledger))
            await asyncio.sleep(0)
            hold.settle(NOTHING)
            waiter.cancel()
            await asyncio.wait([waiter])
        assert (ledger.free.tokens, ledger.held) == (100, NOTHING)

    run(main())


async def _hold_for_ever(ledger: Ledger) -> None:
    with await ledger.hold(ask(100), Halt()):
        await asyncio.sleep(math.inf)


def test_the_reserve_is_invisible_until_it_is_released() -> None:
    async def main() -> None:
        ledger = Ledger(tokens(40), reserve=10)
        with await ledger.hold(ask(100), Halt()) as hold:
            assert hold.granted == 30
        ledger.release_reserve()
        with await ledger.hold(ask(100), Halt()) as hold:
            assert hold.granted == 10

    run(main())


@given(
    prompt=st.integers(0, 5_000),
    ceiling=st.integers(1, 5_000),
    usd=st.floats(1e-9, 1.0),
    flops=st.floats(1.0, 1e12),
)
def test_a_grant_is_the_most_that_every_unit_pays_for(prompt: int, ceiling: int, usd: float, flops: float) -> None:
    tariff = Tariff(FAKE, Price(prompt=3.0, completion=15.0))
    free = Spend(math.inf, usd, flops)
    granted = tariff.affordable(prompt, ceiling, free)
    assert 0 <= granted <= ceiling
    assert granted == 0 or tariff.ceiling(prompt, granted).within(free)
    assert granted == ceiling or not tariff.ceiling(prompt, granted + 1).within(free)


@given(
    limit=st.integers(1, 500),
    calls=st.lists(st.tuples(st.integers(1, 100), st.floats(0, 1), st.floats(0, 3)), max_size=64),
)
def test_what_is_spent_and_held_never_exceeds_the_limit(limit: int, calls: list[tuple[int, float, float]]) -> None:
    async def main() -> None:
        ledger = Ledger(tokens(limit))

        async def call(ceiling: int, share: float, seconds: float) -> None:
            with await ledger.hold(ask(ceiling), Halt()) as hold:
                assert ledger.spent.tokens + ledger.held.tokens <= limit
                await asyncio.sleep(seconds)
                hold.settle(Spend(int(hold.granted * share), 0.0, 0.0))

        await asyncio.gather(*(call(*each) for each in calls), return_exceptions=True)
        assert ledger.spent.tokens <= limit
        assert ledger.held == NOTHING

    run(main())
