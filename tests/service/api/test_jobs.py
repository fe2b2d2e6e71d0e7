"""Jobs over HTTP, from question to bill."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from redis import Redis
from starlette.requests import ClientDisconnect

from service.api.events import Follower
from service.api.streams import EventStream, Streams
from service.keys import Keys, TenantLimits
from service.metrics.count import Counting
from service.settings import Settings
from service.store import RedisJournal, Store
from strategies import STRATEGIES
from tests.service.serving import ASKED, Served, held, listening, serving, spec, until
from tts.replay import replay_file
from verifiers import VERIFIERS

pytestmark = pytest.mark.anyio
SLOW = {**ASKED, "strategy": "best_of_n:n=2", "budget": {"tokens": 100_000}, "sampling": {"max_tokens": 40_000}}


@pytest.fixture
def endless(settings: Settings) -> Settings:
    """A model that goes on until it is told to stop; heartbeats in short order."""
    return settings.model_copy(update={"default_model": "fake:tests.handlers:endless", "heartbeat_seconds": 0.1})


def told(events: str) -> list[dict[str, Any]]:
    """Server-sent events, heartbeats left out."""
    blocks = [block for block in events.split("\n\n") if block and not block.startswith(":")]
    fields = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]
    return [{**each, "data": json.loads(each["data"])} for each in fields]


async def test_solve_waits_for_the_answer(service: Served) -> None:
    answered = await service.client.post("/v1/solve", json=ASKED)
    told = answered.json()
    assert (answered.status_code, told["state"], told["result"]["answer"]) == (200, "done", "12"), told
    assert told["result"]["bill"]["tokens"] == told["spent"]["tokens"] == 20
    assert answered.headers["Location"] == told["links"]["self"] == f"/v1/jobs/{told['id']}"


async def test_solve_does_not_wait_for_longer_than_asked(endless: Settings) -> None:
    async with serving(endless) as service:
        answered = await service.client.post("/v1/solve", json={**SLOW, "wait": 0.1})
        assert answered.status_code == 202
        assert answered.json()["state"] in ("queued", "running")


@pytest.mark.parametrize(
    ("handler", "status", "code"), [("broken", 502, "no_samples"), ("crashing", 500, "internal"), ("none", 422, "")]
)
async def test_what_went_wrong_with_a_job_is_told_to_whoever_waits(
    handler: str, status: int, code: str, settings: Settings
) -> None:
    changed = settings.model_copy(update={"default_model": f"fake:tests.handlers:{handler}"})
    async with serving(changed) as service:
        answered = await service.client.post("/v1/solve", json=ASKED)
        assert (answered.status_code, answered.headers["Content-Type"]) == (status, "application/problem+json")
        assert answered.json()["code"] == (code or "cannot_be_done")
        assert "secret" not in answered.text
        job = await service.ended(answered.json()["job"])
        assert job["error"]["code"] == answered.json()["code"]


async def test_a_job_is_handed_in_and_fetched(service: Served) -> None:
    answered = await service.client.post("/v1/jobs", json=ASKED)
    assert answered.status_code == 202
    job = await service.ended(answered.json()["id"])
    assert (job["state"], job["result"]["answer"], job["strategy"]) == ("done", "12", "best_of_n")


async def test_jobs_are_listed_page_by_page_the_newest_first(service: Served) -> None:
    ids = [(await service.client.post("/v1/jobs", json=ASKED)).json()["id"] for _ in range(5)]
    batch = (await service.client.post("/v1/batches", json=asked_together(6))).json()
    seen, page = list[str](), {"next": 1e11}
    while page["next"] is not None:
        page = (await service.client.get("/v1/jobs", params={"limit": 4, "before": page["next"]})).json()
        seen += [job["id"] for job in page["jobs"]]
    assert len(seen) == len(set(seen)) == 11
    assert set(seen[:6]) == set(batch["jobs"])
    assert seen[6:] == ids[::-1]


@pytest.mark.parametrize("store", [True, False])
async def test_a_list_of_jobs_says_which_model_and_strategy_they_have(store: bool, service: Served) -> None:
    job = (await service.client.post("/v1/solve", json={**ASKED, "store": store})).json()
    batch = (await service.client.post("/v1/batches", json=asked_together(2, strategy="single", store=store))).json()
    for id in batch["jobs"]:
        await service.ended(id)
    listed = (await service.client.get("/v1/jobs")).json()["jobs"]
    assert [(each["model"], each["strategy"]) for each in listed] == [
        ("default", "single"),
        ("default", "single"),
        ("default", "best_of_n"),
    ]
    assert (job["model"], job["strategy"]) == ("default", "best_of_n")
    assert (await service.client.get(job["links"]["self"])).json() == job


async def test_a_job_from_before_its_model_was_kept_beside_its_specification_is_shown_with_it(
    service: Served, valkey: Redis
) -> None:
    job = (await service.client.post("/v1/solve", json=ASKED)).json()
    assert valkey.hdel(f"tts:job:{job['id']}", "model", "strategy") == 2
    assert (await service.client.get(job["links"]["self"])).json() == job


def asked_together(size: int, **more: Any) -> dict[str, Any]:
    problems = [{"problem": f"What is 3 times 4? {i}", "answer": "maths"} for i in range(size)]
    return {"problems": problems, "strategy": "best_of_n:n=2", "budget": {"tokens": 100 * size}, **more}


async def test_a_batch_keeps_the_order_of_its_problems_and_its_budget(service: Served) -> None:
    asked = asked_together(4)
    asked["problems"].reverse()
    batch = (await service.client.post("/v1/batches", json=asked)).json()
    for id, problem in zip(batch["jobs"], asked["problems"], strict=True):
        job = await service.ended(id)
        assert (job["state"], job["batch"]) == ("done", batch["id"])
        trace = await service.client.get(f"/v1/jobs/{id}/trace")
        assert problem["problem"] in trace.text
    after = (await service.client.get(f"/v1/batches/{batch['id']}")).json()
    assert (after["jobs"], after["ended"], after["spent"]["tokens"]) == (batch["jobs"], 4, 4 * 2 * 5)
    assert after["budget"] == asked["budget"]


async def test_a_trace_replays_to_the_same_result(service: Served, tmp_path: Path) -> None:
    asked = {**ASKED, "strategy": "beam:n=4", "budget": {"tokens": 500}}
    job = (await service.client.post("/v1/solve", json=asked)).json()
    trace = await service.client.get(job["links"]["trace"])
    file = tmp_path / "trace.jsonl"
    file.write_text(trace.text)
    result, header = await replay_file(file, STRATEGIES, VERIFIERS)
    assert (header.job, header.strategy.name) == (job["id"], "beam")
    assert result.answer
    assert result.answer.text == job["result"]["answer"]
    assert result.bill.model_dump(mode="json") == job["result"]["bill"]


async def test_a_cancelled_job_keeps_its_best_answer(endless: Settings) -> None:
    async with serving(endless) as service:
        id = (await service.client.post("/v1/jobs", json=SLOW)).json()["id"]
        await until(lambda: started(service, id))
        await asyncio.sleep(0.1)
        assert (await service.client.delete(f"/v1/jobs/{id}")).status_code == 202
        job = await service.ended(id)
        assert (job["state"], job["result"]["stop"]) == ("cancelled", "cancelled")
        assert job["result"]["answer"] == "12"
        assert 0 < job["spent"]["tokens"] < 100_000


async def started(service: Served, id: str) -> bool:
    return len((await service.client.get(f"/v1/jobs/{id}/trace")).text) > 0


async def test_a_purged_job_is_gone(service: Served, valkey: Redis) -> None:
    job = (await service.client.post("/v1/solve", json={**ASKED, "problem": "my secret"})).json()
    assert any(b"my secret" in value for value in kept(valkey))
    purged = await service.client.delete(job["links"]["self"], params={"purge": True})
    assert (purged.status_code, purged.json()["result"]) == (202, None)
    for link in job["links"].values():
        assert (await service.client.get(link)).status_code == 404
    assert not any(b"my secret" in value or job["id"].encode() in value for value in kept(valkey))


def kept(valkey: Redis) -> list[bytes]:
    """All that Redis holds: keys and values."""
    read: dict[str, Any] = {
        "hash": lambda key: [part for pair in valkey.hgetall(key).items() for part in pair],
        "list": lambda key: valkey.lrange(key, 0, -1),
        "set": lambda key: list(valkey.smembers(key)),
        "zset": lambda key: valkey.zrange(key, 0, -1),
        "string": lambda key: [valkey.get(key)],
    }
    keys: Any = valkey.keys("*")
    kinds: Any = [valkey.type(key) for key in keys]
    return [part for key, kind in zip(keys, kinds, strict=True) for part in (key, *read[kind.decode()](key))]


async def test_nothing_of_a_job_that_is_not_to_be_stored_is_left_but_its_result(service: Served, valkey: Redis) -> None:
    job = (await service.client.post("/v1/solve", json={**ASKED, "problem": "my secret", "store": False})).json()
    assert job["result"]["answer"] == "12"
    assert not any(b"my secret" in value for value in kept(valkey))
    assert (await service.client.get(job["links"]["self"])).json()["result"]["answer"] == "12"
    assert (await service.client.get(job["links"]["trace"])).json()["code"] == "no_trace"


async def test_events_tell_of_every_call_and_end_with_the_result(service: Served) -> None:
    job = (await service.client.post("/v1/solve", json=ASKED)).json()
    answered = await service.client.get(job["links"]["events"])
    assert answered.headers["Content-Type"].startswith("text/event-stream")
    events = told(answered.text)
    names = [each["event"] for each in events]
    assert (names.count("call"), names.count("settled"), names[-1]) == (4, 4, "result")
    assert sum(each["data"]["tokens"] for each in events if each["event"] == "settled") == 20
    assert events[-1]["data"]["result"] == job["result"]
    ids = [int(each["id"]) for each in events if "id" in each]
    assert ids == sorted(set(ids))


async def test_a_stream_that_broke_goes_on_behind_its_last_event(service: Served) -> None:
    job = (await service.client.post("/v1/solve", json=ASKED)).json()
    whole = told((await service.client.get(job["links"]["events"])).text)
    for at, event in enumerate(whole[:-1]):
        rest = await service.client.get(job["links"]["events"], headers={"Last-Event-ID": event["id"]})
        assert told(rest.text) == whole[at + 1 :]
    behind = await service.client.get(job["links"]["events"], headers={"Last-Event-ID": "999999999999"})
    assert told(behind.text) == whole[-1:]


async def test_a_stream_looks_at_all_of_a_job_twice_however_much_happens(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings, workers=0) as service:
        sent = counted(service.desk.store, monkeypatch)
        await service.store.submit("default", [spec("1")])
        (claim,), _ = await service.store.claim("w", 1)
        journal = RedisJournal(
            service.store.scripts, "1", claim.fence, claim.spec.problem, Counting(claim.label, "single", claim.waited)
        )
        async with aclosing(Follower(service.desk.store, service.desk.news, "default", "1", 0).events(9)) as events:
            names = [(event := await anext(events)) and event.name]
            for i in range(20):
                await journal.append(held(f"0.{i}"))
                names.append((event := await anext(events)) and event.name)
            await service.store.finish(claim, "done", b"", None)
            names += [event and event.name async for event in events]
        assert names == ["state", *["call"] * 20, "result"]
        assert sent.pop("follow") == 1 + 20 + 1
        assert sent == {"look": 2}


def counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each script is sent from now on."""
    sent, run = Counter[str](), store.scripts.run

    async def counting(name: str, *arguments: Any) -> Any:
        sent[name] += 1
        return await run(name, *arguments)

    monkeypatch.setattr(store.scripts, "run", counting)
    return sent


async def test_a_stream_of_a_job_that_is_purged_meanwhile_says_so(endless: Settings) -> None:
    async with serving(endless) as service, listening(service.app) as client:
        job = (await client.post("/v1/jobs", json=SLOW)).json()
        async with client.stream("GET", job["links"]["events"]) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            await client.delete(job["links"]["self"], params={"purge": True})
            seen = [line async for line in lines]
        assert seen[-3:] == ["event: purged", "data: {}", ""]


async def test_events_come_as_they_happen_and_a_silent_stream_is_kept_open(endless: Settings) -> None:
    async with serving(endless) as service, listening(service.app) as client:
        job = (await client.post("/v1/jobs", json=SLOW)).json()
        seen = list[str]()
        async with client.stream("GET", job["links"]["events"]) as stream:
            async for line in stream.aiter_lines():
                seen.append(line)
                if line.startswith(":"):
                    await client.delete(job["links"]["self"])
        assert seen.index("event: call") < next(i for i, line in enumerate(seen) if line.startswith(":"))
        assert "event: result" in seen


async def test_nobody_listens_any_more_for_streams_that_broke_off(endless: Settings, valkey: Redis) -> None:
    async with serving(endless) as service, listening(service.app) as client:
        job = (await client.post("/v1/jobs", json=SLOW)).json()

        async def leaves_early() -> None:
            async with client.stream("GET", job["links"]["events"]) as stream:
                async for _ in stream.aiter_lines():
                    return

        async def silent() -> bool:
            return not valkey.pubsub_channels("tts:news:*") and service.desk.streams.open == 0

        await asyncio.gather(*(leaves_early() for _ in range(20)))
        await until(silent)
        await client.delete(job["links"]["self"])


async def test_nobody_listens_any_more_for_a_stream_that_is_cancelled_for_good(service: Served, valkey: Redis) -> None:
    async def silent() -> bool:
        return not valkey.pubsub_channels("tts:news:*")

    with anyio.CancelScope() as scope:
        async with service.desk.news.changes_of("one"):
            assert not await silent()
            scope.cancel()
            await anyio.sleep(1)
    await until(silent)


async def test_a_stream_that_begins_as_another_ends_hears_the_news(endless: Settings, valkey: Redis) -> None:
    async with serving(endless) as service:
        news = service.desk.news
        for _ in range(20):
            async with news.changes_of("one"):
                pass
            async with news.changes_of("one") as changed:
                await until(lambda: heard(valkey, changed))


async def heard(valkey: Redis, changed: asyncio.Event) -> bool:
    valkey.publish("tts:news:one", "")
    await asyncio.sleep(0)
    return changed.is_set()


async def test_there_are_not_more_streams_than_allowed(endless: Settings) -> None:
    limited = endless.model_copy(update={"most_streams": 1})
    async with serving(limited) as service, listening(service.app) as client:
        job = (await client.post("/v1/jobs", json=SLOW)).json()
        async with client.stream("GET", job["links"]["events"]) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            refused = await client.get(job["links"]["events"])
            assert (refused.status_code, refused.json()["code"]) == (429, "streams")
            assert int(refused.headers["Retry-After"]) > 0
        await client.delete(job["links"]["self"])


async def test_streams_of_completions_count_and_one_too_many_is_refused_before_it_is_a_job(endless: Settings) -> None:
    chat = {
        "messages": [{"role": "user", "content": "How many?"}],
        "stream": True,
        "budget": {"tokens": 20_000},
        "max_completion_tokens": 10_000,
    }
    limited = endless.model_copy(update={"most_streams": 1})
    async with serving(limited) as service, listening(service.app) as client:
        async with client.stream("POST", "/v1/chat/completions", json=chat) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            (job,) = (await client.get("/v1/jobs")).json()["jobs"]
            for refused in (
                await client.post("/v1/chat/completions", json=chat),
                await client.get(job["links"]["events"]),
            ):
                assert (refused.status_code, refused.json()["code"]) == (429, "streams")
                assert int(refused.headers["Retry-After"]) > 0
            assert len((await client.get("/v1/jobs")).json()["jobs"]) == 1
        await until(lambda: seated(service, 0))
        await service.ended(job["id"])


async def seated(service: Served, streams: int) -> bool:
    return service.desk.streams.open == streams


async def test_a_stream_whose_job_is_not_taken_in_does_not_count(service: Served) -> None:
    await Keys(service.store.redis).limit("default", TenantLimits(queued=1, tokens=1))
    chat = {"messages": [{"role": "user", "content": "How many?"}], "stream": True, "budget": {"tokens": 1_000}}
    refused = await service.client.post("/v1/chat/completions", json=chat)
    assert (refused.status_code, refused.json()["code"]) == (429, "budget")
    assert service.desk.streams.open == 0


async def test_a_stream_whose_caller_has_gone_before_it_begins_does_not_count() -> None:
    streams = Streams(1)

    async def events() -> AsyncIterator[bytes]:
        yield b""

    async def gone(message: Any) -> None:
        raise OSError

    with pytest.raises(ClientDisconnect):
        await EventStream(events(), streams.seat())(SCOPE, gone_already, gone)
    assert streams.open == 0


async def gone_already() -> Any:
    return {"type": "http.disconnect"}


SCOPE = {"type": "http", "asgi": {"spec_version": "2.4"}, "headers": []}


async def test_strategies_are_listed_with_the_schemas_of_their_parameters(service: Served) -> None:
    methods = (await service.client.get("/v1/strategies")).json()
    assert {each["name"] for each in methods["strategies"]} == set(STRATEGIES)
    assert {each["name"] for each in methods["verifiers"]} == set(VERIFIERS)
    assert all(each["when"] and each["parameters"]["type"] == "object" for each in methods["strategies"])


async def test_the_budget_shows_what_was_spent(service: Served) -> None:
    job = (await service.client.post("/v1/solve", json=ASKED)).json()
    budget = (await service.client.get("/v1/budget")).json()
    assert budget["tokens"] == {"limit": None, "spent": job["spent"]["tokens"], "held": 0, "free": None}
    assert (budget["tenant"], budget["queued"], budget["running"], budget["jobs_ended"]) == ("default", 0, 0, 1)


async def test_readiness_is_about_workers_and_liveness_about_nobody_else(settings: Settings) -> None:
    async def ready(client: httpx.AsyncClient) -> bool:
        return (await client.get("/readyz")).status_code == 200

    async with serving(settings) as service:
        await until(lambda: ready(service.client))
    async with serving(settings.model_copy(update={"lease_seconds": 0.001}), workers=0) as service:
        await asyncio.sleep(0.01)
        answered = await service.client.get("/readyz")
        assert (answered.status_code, answered.json()["status"]) == (503, "no worker is alive")
        assert (await service.client.get("/healthz")).status_code == 200


async def test_without_a_store_it_is_said_that_it_cannot_be_reached(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0", "patience_seconds": 0.1})
    async with serving(away, workers=0) as service:
        for answered in (await service.client.get("/readyz"), await service.client.post("/v1/jobs", json=ASKED)):
            assert answered.status_code == 503
        assert answered.json()["code"] == "store_unavailable"
        assert answered.headers["Retry-After"] == "1"
