"""What tenants and batches may spend: set aside when a job comes, booked when it ends, never more than there is."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as drawn
from hypothesis import strategies as st
from redis import Redis

from service.keys import Keys, TenantLimits
from service.metrics.count import Counting
from service.settings import Settings
from service.store import Claim, RedisJournal, Refusal, Store
from service.store.nouns import Batch
from tests.service.serving import held, settled, spec
from tts.types import Budget, Spend

pytestmark = pytest.mark.anyio
NANO = 1e-9


async def limited(store: Store, **limits: Any) -> None:
    await Keys(store.redis).limit("a", TenantLimits(**limits))


async def taken(store: Store, id: str, **budget: Any) -> bool:
    with suppress(Refusal):
        return bool(await store.submit("a", [spec(id, budget=Budget(**budget))]))
    return False


async def spent(store: Store, claim: Claim, *spends: Spend) -> None:
    """Work on a job that costs so much, call by call, and end it."""
    journal = RedisJournal(
        store.scripts, claim.id, claim.fence, claim.spec.problem, Counting(claim.label, "single", claim.waited)
    )
    for i, spend in enumerate(spends):
        await journal.append(held(f"{i}", spend))
        await journal.append(settled(f"{i}", spend=spend))
    assert await store.finish(claim, "done", b"", None)


async def claimed(store: Store, wanted: int = 1) -> list[Claim]:
    return (await store.claim("w", wanted))[0]


async def batched(store: Store, size: int, **budget: Any) -> str:
    specs = [spec(f"b{i}") for i in range(size)]
    return await store.submit("a", specs, batch=Budget(**budget), order=range(size))


async def found(store: Store, id: str) -> Batch:
    batch = await store.batch("a", id)
    assert batch
    return batch


async def test_a_budget_is_set_aside_when_a_job_comes_and_what_it_cost_is_booked_when_it_ends(store: Store) -> None:
    await limited(store, tokens=1_000)
    assert await taken(store, "1", tokens=600)
    assert not await taken(store, "2", tokens=600)
    assert (await store.spending("a"))["held_tokens"] == 600
    (claim,) = await claimed(store)
    await spent(store, claim, Spend(100, 0.0, 0.0), Spend(50, 0.0, 0.0))
    told = await store.spending("a")
    assert (told["tokens"], told["held_tokens"], told["jobs"]) == (150, 0, 1)
    assert await taken(store, "3", tokens=850)
    assert not await taken(store, "4", tokens=1)


async def test_what_is_refused_says_when_the_window_ends_and_what_is_left(store: Store) -> None:
    await limited(store, tokens=1_000, period="hour")
    with pytest.raises(Refusal) as refused:
        await store.submit("a", [spec("1", 1_001)])
    assert refused.value.about == "tokens 1000"
    assert 0 < refused.value.wait <= 3_600


async def test_a_job_without_a_bound_in_the_unit_of_the_limit_is_refused(store: Store) -> None:
    await limited(store, usd=1.0)
    with pytest.raises(Refusal, match="unbounded"):
        await store.submit("a", [spec("1")])


async def test_a_job_whose_worker_died_is_billed_for_what_may_have_been_spent(store: Store) -> None:
    await store.submit("a", [spec("1")])
    (claim,) = await claimed(store)
    journal = RedisJournal(
        store.scripts, "1", claim.fence, claim.spec.problem, Counting(claim.label, "single", claim.waited)
    )
    await journal.append(held("0", Spend(70, 0.0, 0.0)), held("1", Spend(30, 0.0, 0.0)))
    await journal.append(settled("1", spend=Spend(20, 0.0, 0.0)))
    await store.finish(claim, "dead", b"", {"code": "internal", "detail": ""})
    told = await store.spending("a")
    assert (told["tokens"], told["held_tokens"]) == (90, 0)


async def test_dollars_are_counted_in_billionths_and_none_is_lost(store: Store) -> None:
    await store.submit("a", [spec("1", budget=Budget(usd=1.0))])
    (claim,) = await claimed(store)
    calls = [Spend(1, 1.4 * NANO, 0.0)] * 100 + [Spend(1, 0.123456789, 0.0)]
    await spent(store, claim, *calls)
    job = await store.job("a", "1")
    assert job
    assert round(job.spent_usd / NANO) == 140 + 123_456_789
    told = await store.spending("a")
    assert (told["usd"], told["held_usd"]) == (140 + 123_456_789, 0)


async def test_nothing_stays_open_of_holds_that_were_taken_together(store: Store, valkey: Redis) -> None:
    await store.submit("a", [spec("1")])
    (claim,) = await claimed(store)
    journal = RedisJournal(
        store.scripts, "1", claim.fence, claim.spec.problem, Counting(claim.label, "single", claim.waited)
    )
    price = Spend(1, 0.4 * NANO, 1e6)
    await journal.append(*(held(f"{i}", price) for i in range(9)))
    for i in range(9):
        await journal.append(settled(f"{i}", spend=price))
    assert valkey.hmget("tts:job:1", "open_tokens", "open_usd", "open_flops") == [b"0", b"0", b"0"]
    assert valkey.hget("tts:job:1", "spent_usd") == b"4"


@drawn(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.integers(100, 2_000),
    jobs=st.lists(st.tuples(st.integers(1, 300), st.floats(0, 1)), min_size=1, max_size=60),
    seed=st.integers(0, 1_000),
)
def test_a_tenants_budget_is_never_exceeded_however_many_submit_and_work(
    tokens: int, jobs: list[tuple[int, float]], seed: int, settings: Settings, valkey: Redis
) -> None:
    valkey.flushall()
    chance = random.Random(seed)

    async def submits(store: Store, asked: list[tuple[str, int]]) -> int:
        return sum([await taken(store, id, tokens=most) for id, most in asked])

    async def works(store: Store, over: asyncio.Event) -> None:
        while (claims := await claimed(store, chance.randint(1, 3))) or not over.is_set():
            for claim in claims:
                most = claim.spec.budget.tokens or 0
                await spent(store, claim, Spend(int(most * jobs[int(claim.id)][1]), 0.0, 0.0))
            told = await store.spending("a")
            assert told.get("tokens", 0) + told.get("held_tokens", 0) <= tokens

    async def main() -> None:
        stores = [Store(settings) for _ in range(4)]
        await limited(stores[0], tokens=tokens)
        asked = [(f"{i}", most) for i, (most, _) in enumerate(jobs)]
        over = asyncio.Event()
        workers = [asyncio.create_task(works(each, over)) for each in stores]
        counts = await asyncio.gather(*(submits(store, asked[i::4]) for i, store in enumerate(stores)))
        over.set()
        await asyncio.gather(*workers)
        told = await stores[0].spending("a")
        assert (told.get("jobs", 0), told.get("held_tokens", 0)) == (sum(counts), 0)
        assert told.get("tokens", 0) <= tokens
        for each in stores:
            await each.aclose()

    asyncio.run(main())


@drawn(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    unit=st.sampled_from(["tokens", "usd", "flops"]),
    amount=st.integers(10, 10_000),
    parts=st.lists(st.floats(0, 1), min_size=1, max_size=10),
    at_once=st.integers(1, 4),
)
def test_the_shares_of_a_batch_never_exceed_its_budget_and_what_one_does_not_need_the_others_have(
    unit: str, amount: int, parts: list[float], at_once: int, settings: Settings, valkey: Redis
) -> None:
    valkey.flushall()
    whole = amount * NANO if unit == "usd" else amount

    async def main() -> None:
        store = Store(settings)
        id = await batched(store, len(parts), **{unit: whole})
        used = 0.0
        while claims := await claimed(store, at_once):
            shares = [getattr(claim.spec.budget, unit) for claim in claims]
            assert used + sum(shares) <= whole * (1 + 1e-12)
            for claim, share in zip(claims, shares, strict=True):
                cost = share * parts[int(claim.id[1:])]
                cost = int(cost) if unit == "tokens" else round(cost / NANO - 0.5) * NANO if unit == "usd" else cost
                used += max(0, cost)
                await spent(store, claim, Spend(**{"tokens": 0, "usd": 0.0, "flops": 0.0, unit: max(0, cost)}))
        batch = await found(store, id)
        assert batch.ended == len(parts)
        told = await store.spending("a")
        assert all(told.get(f"held_{each}", 0) == 0 for each in ("tokens", "usd"))
        await store.aclose()

    asyncio.run(main())


async def test_the_last_job_of_a_batch_has_all_that_the_others_left(store: Store) -> None:
    id = await batched(store, 3, tokens=300)
    shares = []
    for cost in (10, 20, 5):
        (claim,) = await claimed(store)
        shares.append(claim.spec.budget.tokens)
        await spent(store, claim, Spend(cost, 0.0, 0.0))
    assert shares == [100, 145, 270]
    batch = await found(store, id)
    assert (batch.spent_tokens, batch.ended) == (35, 3)


async def test_a_job_of_a_batch_that_is_cancelled_before_its_turn_leaves_its_share_to_the_others(store: Store) -> None:
    await batched(store, 3, tokens=300)
    await store.cancel("a", "b0")
    await store.cancel("a", "b1")
    (claim,) = await claimed(store)
    assert claim.spec.budget.tokens == 300


async def test_a_job_of_a_batch_keeps_its_share_when_its_worker_dies(store: Store) -> None:
    await batched(store, 2, tokens=300)
    (first,) = await claimed(store)
    await store.release({first.id: first.fence})
    (again,) = await claimed(store)
    assert (again.id, again.spec.budget) == (first.id, first.spec.budget)
    assert (await claimed(store))[0].spec.budget.tokens == 150


async def test_what_a_batch_set_aside_is_given_back_with_its_last_job(store: Store) -> None:
    await limited(store, tokens=1_000, usd=1.0)
    await batched(store, 2, tokens=400, usd=0.5)
    told = await store.spending("a")
    assert (told["held_tokens"], told["held_usd"]) == (400, 5e8)
    for held_then in (400 - 30, 0):
        (claim,) = await claimed(store)
        await spent(store, claim, Spend(30, 0.01, 0.0))
        assert (await store.spending("a"))["held_tokens"] == held_then
    told = await store.spending("a")
    assert (told["tokens"], told["usd"], told["held_usd"]) == (60, 2e7, 0)


async def test_a_batch_sets_nothing_aside_in_units_in_which_it_has_no_budget(store: Store) -> None:
    await batched(store, 2, tokens=400)
    for claim in await claimed(store, 2):
        await spent(store, claim, Spend(30, 0.01, 0.0))
        told = await store.spending("a")
        assert told["held_usd"] == 0
    assert told["usd"] == 2e7


async def test_a_share_too_small_to_buy_anything_stops_nobody(store: Store) -> None:
    id = await batched(store, 3, usd=1e-12)
    claims = await claimed(store, 3)
    assert len(claims) == 3
    for claim in claims:
        await spent(store, claim)
    assert (await found(store, id)).ended == 3


async def test_a_batch_is_shown_with_the_budget_that_was_asked_for(store: Store) -> None:
    asked = {
        "tokens": 987_654_321,
        "seconds": 12345.678901234567,
        "usd": 123456.789012345,
        "flops": 1.2345678901234567e21,
    }
    id = await batched(store, 2, **asked)
    assert (await found(store, id)).budget == Budget(**asked)
