"""Jobs in Redis, as two workers and their API see them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis import Redis

from service.keys import Keys, TenantLimits
from service.metrics.count import Counting
from service.settings import Settings
from service.spec import State
from service.store import Claim, RedisJournal, Refusal, StaleLease, Store, Unreachable
from tests.fakes import PROBLEM
from tests.service.serving import completion, held, settled, spec
from tts.journal import Checkpoint, Computed, Held, Record
from tts.types import Spend

pytestmark = pytest.mark.anyio
LEASE = 0.05


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"lease_seconds": LEASE, "attempts": 3})


async def submitted(store: Store, tenant: str, *ids: str, **options: Any) -> None:
    for id in ids:
        await store.submit(tenant, [spec(id)], **options)


async def claimed(store: Store, wanted: int = 1, worker: str = "w") -> list[Claim]:
    return (await store.claim(worker, wanted))[0]


async def expired(store: Store) -> int:
    """Wait for longer than a lease lasts; how many jobs somebody else's heartbeat then puts back."""
    await asyncio.sleep(1.5 * LEASE)
    return (await store.renew("other", {}, {})).requeued


def journal_of(store: Store, claim: Claim) -> RedisJournal:
    return RedisJournal(
        store.scripts, claim.id, claim.fence, claim.spec.problem, Counting(claim.label, "single", claim.waited)
    )


def done(key: str) -> Record:
    return Computed(key=key, request="r", value=None, timed_out=False, at=0.0)


async def finished(store: Store, claim: Claim, state: State = "done") -> bool:
    return await store.finish(claim, state, b'{"answer": 42}', None)


async def state_of(store: Store, id: str, tenant: str = "a") -> str | None:
    job = await store.job(tenant, id)
    return job.state if job else None


async def test_a_job_is_queued_then_running_then_done(store: Store) -> None:
    await submitted(store, "a", "1")
    assert await state_of(store, "1") == "queued"
    (claim,) = await claimed(store)
    assert (claim.id, claim.fence, claim.tenant, claim.spec) == ("1", 1, "a", spec("1"))
    assert await state_of(store, "1") == "running"
    assert await finished(store, claim)
    job = await store.job("a", "1")
    assert job
    assert job.over
    assert (job.state, job.result) == ("done", {"answer": 42})
    assert job.started
    assert job.ended
    assert job.created <= job.started <= job.ended


async def test_a_job_is_claimed_once(store: Store) -> None:
    await submitted(store, "a", *map(str, range(20)))
    claims = await asyncio.gather(*(claimed(store, 3, f"w{i}") for i in range(10)))
    assert sorted(int(each.id) for some in claims for each in some) == list(range(20))


async def test_jobs_of_one_tenant_are_claimed_in_the_order_in_which_they_came(store: Store) -> None:
    await submitted(store, "a", "3", "1", "2")
    assert [each.id for each in await claimed(store, 5)] == ["3", "1", "2"]


async def test_a_thousand_jobs_of_one_tenant_delay_the_first_of_another_by_one_claim(store: Store) -> None:
    await asyncio.gather(*(submitted(store, "many", f"m{i}") for i in range(1_000)))
    await claimed(store, 10)
    await submitted(store, "one", "first")
    assert "first" in [each.id for each in await claimed(store, 2)]


async def test_tenants_take_turns(store: Store) -> None:
    for tenant in "abc":
        await submitted(store, tenant, *(f"{tenant}{i}" for i in range(3)))
    assert [each.tenant for each in await claimed(store, 9)] == list("abcabcabc")


async def test_a_tenant_at_its_limit_of_running_jobs_waits_and_others_do_not(store: Store) -> None:
    await Keys(store.redis).limit("a", TenantLimits(running=2))
    await submitted(store, "a", "1", "2", "3")
    await submitted(store, "b", "4", "5")
    claims = await claimed(store, 9)
    assert sorted(each.id for each in claims) == ["1", "2", "4", "5"]
    assert await claimed(store, 9) == []
    await finished(store, claims[0])
    assert [each.id for each in await claimed(store, 9)] == ["3"]


async def test_a_job_whose_lease_expires_is_the_next_to_be_claimed_under_a_new_fence(store: Store) -> None:
    await submitted(store, "a", "1", "2")
    (before,) = await claimed(store)
    assert await expired(store) == 1
    (after,) = await claimed(store)
    assert (before.id, after.id) == ("1", "1")
    assert after.fence > before.fence


async def test_a_lease_that_is_renewed_does_not_expire(store: Store) -> None:
    await submitted(store, "a", "1")
    (claim,) = await claimed(store)
    for _ in range(6):
        await asyncio.sleep(LEASE / 3)
        pulse = await store.renew("w", {}, {claim.id: claim.fence})
        assert (pulse.stale, pulse.requeued) == (frozenset(), 0)


async def test_nothing_is_written_or_counted_after_what_did_not_arrive(
    store: Store, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submitted(store, "a", "1")
    (claim,) = await claimed(store)
    journal = journal_of(store, claim)
    await journal.append(done("0"))

    async def away(*_: object) -> object:
        raise Unreachable("Redis cannot be reached")

    with monkeypatch.context() as patched:
        patched.setattr(store.scripts, "run", away)
        with pytest.raises(Unreachable):
            await journal.append(settled("1", spend=Spend(9, 0.0, 0.0)))
    with pytest.raises(StaleLease):
        await journal.append(done("2"))
    assert [each.key for each in await journal_of(store, claim).read() if isinstance(each, Computed)] == ["0"]
    assert not valkey.hgetall("tts:metrics:tts_budget_spent_tokens_total")


async def test_whoever_lost_its_lease_can_neither_write_nor_end_the_job(store: Store) -> None:
    await submitted(store, "a", "1")
    (before,) = await claimed(store)
    await expired(store)
    with pytest.raises(StaleLease):
        await journal_of(store, before).append(done("0"))
    assert not await finished(store, before)
    (after,) = await claimed(store)
    with pytest.raises(StaleLease):
        await journal_of(store, before).append(done("0"))
    assert not await finished(store, before)
    assert (await store.renew("w", {}, {"1": before.fence})).stale == {"1"}
    assert await journal_of(store, after).read() == []
    assert await state_of(store, "1") == "running"


async def test_every_script_can_be_sent_twice(store: Store, valkey: Redis) -> None:
    for _ in range(2):
        assert await store.submit("a", [spec("1")]) == "1"
    assert valkey.llen("tts:queue:a") == 1
    (claim,) = await claimed(store)
    for _ in range(2):
        journal = journal_of(store, claim)
        await journal.append(done("0"), done("1"))  # what is sent again has the same position
    assert await journal_of(store, claim).read() == [done("0"), done("1")]
    assert [await finished(store, claim) for _ in range(2)] == [True, True]
    assert (await store.spending("a"))["jobs"] == 1
    for _ in range(2):
        assert await store.cancel("a", "1", purge=True) in ("done", None)


async def test_a_batch_can_be_sent_twice(store: Store, valkey: Redis) -> None:
    specs = [spec("1"), spec("2")]
    for _ in range(2):
        id = await store.submit("a", specs, batch=specs[0].budget, order=(0, 1), idempotency="k", digest="d")
    batch = await store.batch("a", id)
    assert batch
    assert batch.jobs == ("1", "2")
    assert valkey.llen("tts:queue:a") == 2


async def test_a_job_that_keeps_killing_its_workers_is_a_dead_letter(store: Store, valkey: Redis) -> None:
    await submitted(store, "a", "1")
    for _ in range(3):
        assert len(await claimed(store)) == 1
        await expired(store)
    assert await claimed(store) == []
    job = await store.job("a", "1")
    assert job
    assert job.error
    assert (job.state, job.error["code"]) == ("dead", "poison")
    assert valkey.zrange("tts:dead", 0, -1) == [b"1"]
    assert (await store.spending("a"))["held_tokens"] == 0


async def test_a_job_that_gets_further_each_time_is_no_dead_letter(store: Store) -> None:
    await submitted(store, "a", "1")
    for death in range(10):
        (claim,) = await claimed(store)
        journal = journal_of(store, claim)
        assert len(await journal.read()) == death
        await journal.append(done(str(death)))
        await expired(store)
    (claim,) = await claimed(store)
    assert await finished(store, claim)


async def test_asking_again_for_what_was_lost_is_not_getting_further(store: Store) -> None:
    await submitted(store, "a", "1")
    for death in range(3):
        (claim,) = await claimed(store)
        journal = journal_of(store, claim)
        for lost in [each for each in await journal.read() if isinstance(each, Held)][-1:]:
            await journal.append(settled(lost.key, "lost"))
        await journal.append(held(f"0.0#{death}"))
        await expired(store)
    assert await claimed(store) == []
    assert await state_of(store, "1") == "dead"


async def test_a_checkpoint_is_getting_further(store: Store) -> None:
    await submitted(store, "a", "1")
    piece = completion("word ")
    for death in range(6):
        (claim,) = await claimed(store)
        await journal_of(store, claim).append(Checkpoint(key=f"0.0#{death}", piece=piece, at=0.0))
        await expired(store)
    assert len(await claimed(store)) == 1


async def test_a_worker_that_hands_a_job_back_does_it_no_harm(store: Store) -> None:
    await submitted(store, "a", "1", "2")
    for _ in range(10):
        (claim,) = await claimed(store)
        assert await store.release({claim.id: claim.fence}) == 1
        assert await store.release({claim.id: claim.fence}) == 0
    assert claim.id == "1"
    assert await state_of(store, "1") == "queued"


async def test_a_job_that_waits_is_cancelled_at_once(store: Store) -> None:
    await submitted(store, "a", "1", "2")
    assert await store.cancel("a", "1") == "queued"
    assert await state_of(store, "1") == "cancelled"
    assert [each.id for each in await claimed(store, 5)] == ["2"]
    assert (await store.spending("a"))["queued"] == 0


async def test_a_running_job_hears_of_its_cancellation_with_its_next_write_and_heartbeat(store: Store) -> None:
    await submitted(store, "a", "1")
    (claim,) = await claimed(store)
    heard: list[bool] = []
    journal = RedisJournal(
        store.scripts,
        "1",
        claim.fence,
        claim.spec.problem,
        Counting(claim.label, "single", claim.waited),
        lambda: heard.append(True),
    )
    await journal.append(done("0"))
    assert await store.cancel("a", "1") == "running"
    job = await store.job("a", "1")
    assert job
    assert job.cancelling
    assert not heard
    await journal.append(done("1"))
    assert heard == [True]
    assert (await store.renew("w", {}, {"1": claim.fence})).cancelled == {"1"}
    assert await finished(store, claim, "cancelled")
    assert len(await journal_of(store, claim).read()) == 2


async def test_an_interrupted_job_that_is_cancelled_is_claimed_once_more_for_what_it_had_come_to(store: Store) -> None:
    await submitted(store, "a", "1")
    (claim,) = await claimed(store)
    await journal_of(store, claim).append(done("0"))
    await expired(store)
    assert await store.cancel("a", "1") == "queued"
    (again,) = await claimed(store)
    assert (await store.renew("w", {}, {"1": again.fence})).cancelled == {"1"}


@pytest.mark.parametrize("when", ["queued", "running", "interrupted", "ended"])
async def test_nothing_is_left_of_a_job_that_is_purged(when: str, store: Store, valkey: Redis) -> None:
    await submitted(store, "a", "job_secret")
    claims = await claimed(store) if when != "queued" else []
    for claim in claims:
        await journal_of(store, claim).append(done("0"))
    if when == "interrupted":
        await expired(store)
    if when == "ended":
        await finished(store, claims[0])
    await store.cancel("a", "job_secret", purge=True)
    for claim in await claimed(store) if when == "interrupted" else claims:
        await finished(store, claim, "cancelled")
    assert await store.job("a", "job_secret") is None
    assert not [key for key in valkey.keys("*") if b"job_secret" in key]
    assert await store.jobs("a", 10, None) == []
    assert (await store.spending("a"))["held_tokens"] == 0


async def followed(store: Store, start: int, tenant: str = "a") -> tuple[str, int, list[Record]] | None:
    seen = await store.follow(tenant, "1", start, PROBLEM)
    return seen and (seen.state, seen.fence, list(seen.grown))


async def test_whoever_follows_a_job_is_told_how_it_stands_and_of_its_journal_what_is_new(store: Store) -> None:
    await submitted(store, "a", "1")
    assert await followed(store, 0) == ("queued", 0, [])
    (claim,) = await claimed(store)
    await journal_of(store, claim).append(done("0"), done("1"), done("2"))
    for _ in range(2):  # to look changes nothing
        assert await followed(store, 1) == ("running", 1, [done("1"), done("2")])
    assert await followed(store, 3) == ("running", 1, [])
    await finished(store, claim)
    assert await followed(store, 2) == ("done", 1, [done("2")])
    await store.cancel("a", "1", purge=True)
    assert await followed(store, 0) is None


async def test_of_a_job_that_is_not_stored_there_is_nothing_to_follow_once_it_has_ended(store: Store) -> None:
    await store.submit("a", [spec("1")], store=False)
    (claim,) = await claimed(store)
    await journal_of(store, claim).append(done("0"))
    assert await followed(store, 0) == ("running", 1, [done("0")])
    await finished(store, claim)
    assert await followed(store, 0) == ("done", 1, [])


async def test_a_tenant_can_neither_see_nor_cancel_the_job_of_another(store: Store) -> None:
    await submitted(store, "a", "1")
    assert await store.job("b", "1") is None
    assert await followed(store, 0, "b") is None
    assert await store.cancel("b", "1", purge=True) is None
    assert await state_of(store, "1") == "queued"


async def test_of_a_job_that_is_not_stored_only_the_result_is_left_and_that_for_a_while(
    store: Store, valkey: Redis
) -> None:
    await store.submit("a", [spec("1")], store=False)
    (claim,) = await claimed(store)
    await journal_of(store, claim).append(done("0"))
    await finished(store, claim)
    assert not valkey.exists("tts:journal:1", "tts:live:1")
    job = await store.job("a", "1")
    assert job
    assert job.result
    assert job.spec is None
    assert 0 < valkey.ttl("tts:job:1") <= store.settings.linger_seconds


async def test_what_is_kept_expires_once_the_job_has_ended(store: Store, valkey: Redis) -> None:
    await submitted(store, "a", "1", idempotency="k", digest="d")
    (claim,) = await claimed(store)
    await journal_of(store, claim).append(done("0"))
    assert valkey.ttl("tts:job:1") == -1
    await finished(store, claim)
    for key in ("tts:job:1", "tts:journal:1", "tts:same:a:k"):
        assert 0 < valkey.ttl(key) <= store.settings.retention_seconds, key


async def test_a_full_queue_takes_nothing_more(store: Store) -> None:
    await Keys(store.redis).limit("a", TenantLimits(queued=2))
    await submitted(store, "a", "1", "2")
    with pytest.raises(Refusal, match="queue"):
        await submitted(store, "a", "3")
    assert await state_of(store, "3") is None
    await claimed(store)
    await submitted(store, "a", "3")


async def test_more_jobs_a_minute_than_agreed_have_to_wait(store: Store) -> None:
    await Keys(store.redis).limit("a", TenantLimits(rate=60))
    await submitted(store, "a", *map(str, range(60)))
    with pytest.raises(Refusal, match="rate") as refused:
        await submitted(store, "a", "one too many")
    assert 0 < refused.value.wait <= 1


async def test_a_rate_holds_for_as_long_as_it_says(store: Store, valkey: Redis) -> None:
    await Keys(store.redis).limit("a", TenantLimits(rate=0.001))
    await submitted(store, "a", "1")
    assert valkey.ttl("tts:rate:a") > 59_000


async def test_jobs_are_listed_page_by_page_and_none_is_missed(store: Store, valkey: Redis) -> None:
    ids = [f"{i}" for i in range(25)]
    await store.submit("a", [spec(id) for id in ids], batch=spec("").budget, order=range(25))
    valkey.delete("tts:job:20", "tts:job:3")  # they have expired
    seen, before = list[str](), None
    while page := await store.jobs("a", 4, before):
        assert len(page) == 4 or page[-1].id == "0"
        seen += [job.id for job in page]
        before = page[-1].created
    assert seen == [id for id in reversed(ids) if id not in ("20", "3")]


async def test_a_specification_that_this_version_cannot_read_is_left_to_other_workers(
    store: Store, valkey: Redis
) -> None:
    await submitted(store, "a", "1", "2")
    valkey.hset("tts:job:1", "spec", '{"of": "a later version"}')
    assert [each.id for each in await claimed(store, 5)] == ["2"]
