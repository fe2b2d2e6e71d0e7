"""What goes wrong with servers, one thing after the other: the job ends, pays for what was generated, and says what was
lost."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the SGLang backend's extra is not installed")
from aiohttp import ClientSession, web

from evals.lab.splits import Split
from evals.sglang_cpu import Server
from evals.suites import SUITES
from strategies import ETS, SelfConsistency
from tests.sglang.conftest import Fault, connected, passed_on, proxy, request
from tts.backends.sglang import SGLangBackend
from tts.errors import BackendError, NoSamples
from tts.solve import solve
from tts.types import Budget, Problem, Result, Sampling
from verifiers import ProcessReward

SPLIT: Split = "dev"
PROBLEM: Problem = SUITES["chain"].items(SPLIT, 1, None)[0].problem
DRAWN = Sampling(temperature=1.0, max_tokens=256)
ROOMY = Budget(tokens=6_000)


async def voted(backend: SGLangBackend, budget: Budget = ROOMY, n: int = 16) -> Result:
    return await solve(PROBLEM, SelfConsistency(n=n), {"policy": backend}, budget=budget, sampling=DRAWN)


def uncertain(result: Result) -> int:
    return result.usage["policy"].uncertain_tokens


def generated(server: Server) -> int:
    return server.counted("sglang:generation_tokens_total")


def with_fault(server: Server, fault: Fault, twin: Server, budget: Budget = ROOMY) -> Result:
    """A vote on two replicas, one of which fails so."""

    async def run() -> Result:
        async with proxy(server, fault) as url:
            backend = await SGLangBackend.open([url, twin.url], patience=2.0)
            try:
                return await voted(backend, budget)
            finally:
                await backend.aclose()

    return asyncio.run(run())


def after_opening(fault: Fault) -> Fault:
    """A fault that begins when the backend knows its servers, and is of generation only."""

    async def later(asked: web.Request, session: ClientSession) -> Any:
        if asked.path != "/generate" or b'"rid"' not in await asked.read():
            return None
        return await fault(asked, session)

    return later


def answering(status: int, body: bytes) -> Fault:
    async def fault(asked: web.Request, session: ClientSession) -> web.Response:
        return web.Response(status=status, body=body, content_type="application/json")

    return fault


@pytest.mark.parametrize(
    "fault",
    [
        answering(500, b'{"error": {"message": "out of memory"}}'),
        answering(503, b"The request queue is full."),
        answering(200, b'data: {"text": nonsense}\n\ndata: [DONE]\n\n'),
        answering(200, b'data: {"error": {"message": "scheduler died"}}\n\n'),
    ],
    ids=["500", "503", "garbage", "error in the stream"],
)
def test_a_replica_that_only_fails_costs_nothing_and_no_answer(policy: Server, twin: Server, fault: Fault) -> None:
    before = generated(policy) + generated(twin)
    result = with_fault(policy, after_opening(fault), twin)
    assert result.answer is not None
    assert result.samples.failed == 0
    assert result.bill.tokens == generated(policy) + generated(twin) - before - 2  # two were spent on opening


def test_a_truncated_stream_goes_on_elsewhere_from_what_came(policy: Server, twin: Server) -> None:
    async def cut(asked: web.Request, session: ClientSession) -> Any:
        return await passed_on(asked, session, policy.url, limit=3_000)

    result = with_fault(policy, after_opening(cut), twin)
    assert result.answer is not None
    assert result.samples.failed == 0
    assert result.samples.truncated == 0 or uncertain(result) > 0
    assert uncertain(result) > 0
    assert any("may have been generated" in note for note in result.notes)


def test_a_hung_replica_is_left_alone_and_its_samples_go_on_elsewhere(policy: Server, twin: Server) -> None:
    async def run(backend: SGLangBackend) -> Result:
        job = asyncio.create_task(voted(backend))
        await asyncio.sleep(0.3)
        twin.send(signal.SIGSTOP)
        return await job

    try:
        result = connected([policy.url, twin.url], run, patience=2.0)
    finally:
        twin.send(signal.SIGCONT)
    assert result.answer is not None
    assert result.samples.failed == 0
    assert result.bill.tokens <= 6_000


def test_a_replica_that_hangs_before_its_first_token_keeps_nobody_waiting_in_line(policy: Server, twin: Server) -> None:
    async def run(backend: SGLangBackend) -> tuple[Result, float]:
        twin.send(signal.SIGSTOP)
        began = time.monotonic()
        return await voted(backend), time.monotonic() - began

    try:
        result, seconds = connected([policy.url, twin.url], run, patience=2.0)
    finally:
        twin.send(signal.SIGCONT)
    assert result.answer is not None
    assert result.samples.failed == 0
    assert seconds < 9.0


def test_a_deadline_holds_though_a_replica_hangs(policy: Server, twin: Server) -> None:
    async def run(backend: SGLangBackend) -> tuple[Result, float]:
        twin.send(signal.SIGSTOP)
        began = time.monotonic()
        result = await voted(backend, Budget(tokens=6_000, seconds=1.5))
        return result, time.monotonic() - began

    async def opened() -> tuple[Result, float]:
        backend = await SGLangBackend.open([policy.url, twin.url], patience=30.0)
        try:
            return await run(backend)
        finally:
            twin.send(signal.SIGCONT)
            await backend.aclose()

    result, seconds = asyncio.run(opened())
    assert result.stop == "deadline"
    assert seconds < 1.5 + backend_grace() + 0.5


def backend_grace() -> float:
    from tts.backends.sglang.backend import GRACE

    return GRACE


def test_a_replica_killed_in_the_middle_loses_no_sample_and_is_used_again_when_it_is_back(
    policy: Server, twin: Server
) -> None:
    async def killed(backend: SGLangBackend) -> Result:
        job = asyncio.create_task(voted(backend, n=24))
        await asyncio.sleep(0.4)
        twin.kill()
        return await job

    async def back(backend: SGLangBackend) -> None:
        await asyncio.to_thread(lambda: twin.start().ready())
        for _ in range(20):
            await voted(backend, n=2)
            if all(replica.usable for replica in backend.replicas):
                break
            await asyncio.sleep(0.5)
        backend.drain(policy.url)
        before = generated(twin)
        cold = await voted(backend)
        assert generated(twin) - before == cold.bill.tokens > 0

    async def run(backend: SGLangBackend) -> Result:
        result = await killed(backend)
        await back(backend)
        return result

    before = generated(policy)
    result = connected([policy.url, twin.url], run, patience=2.0)
    assert result.answer is not None
    assert result.samples.failed == 0
    assert result.samples.finished + result.samples.truncated == 24
    assert generated(policy) - before >= 24
    assert result.bill.tokens <= ROOMY.limit.tokens


def test_with_no_replica_left_the_job_fails_and_says_who_is_gone(policy: Server) -> None:
    async def nothing(asked: web.Request, session: ClientSession) -> None:
        return None

    async def run() -> None:
        async with proxy(policy, nothing) as url:
            backend = await SGLangBackend.open([url], patience=1.0)
        try:
            for patience in (3.0, 0.5):
                began = time.monotonic()
                with pytest.raises(
                    NoSamples, match=r"every model call failed: .*(cannot be reached|no replica answers)"
                ):
                    await voted(backend, n=3)
                assert time.monotonic() - began < patience, "only the first job waits for somebody to answer"
        finally:
            await backend.aclose()

    asyncio.run(run())


def test_a_reward_model_that_is_gone_is_waited_for_once_and_said_to_be(policy: Server, reward: Server) -> None:
    async def nothing(asked: web.Request, session: ClientSession) -> None:
        return None

    async def run() -> tuple[Result, float]:
        async with proxy(reward, nothing) as url:
            models = {
                "policy": await SGLangBackend.open([policy.url]),
                "verifier": await SGLangBackend.open([url], patience=1.0),
            }
        began, scorer = time.monotonic(), ProcessReward(form="lab", how="prod")
        try:
            result = await solve(PROBLEM, ETS(n=4), models, scorer=scorer, budget=Budget(tokens=4_000), sampling=DRAWN)
            return result, time.monotonic() - began
        finally:
            for backend in models.values():
                await backend.aclose()

    result, took = asyncio.run(run())
    assert took < 8.0, "a search of a dozen steps"
    assert any("calls of the verifier failed, so its scores are missing: " in note for note in result.notes)
    assert result.answer is None or "weighted" not in result.answer.chosen


@pytest.mark.parametrize("seconds", [1.0])
def test_a_slow_reward_model_does_not_break_the_deadline(policy: Server, reward: Server, seconds: float) -> None:
    async def slow(asked: web.Request, session: ClientSession) -> None:
        await asyncio.sleep(3.0)

    async def run() -> tuple[Result, float]:
        async with proxy(reward, after_opening(slow)) as url:
            models = {"policy": await SGLangBackend.open([policy.url]), "verifier": await SGLangBackend.open([url])}
            scorer = ProcessReward(form="lab", how="prod")
            budget = Budget(tokens=4_000, seconds=seconds)
            began = time.monotonic()
            try:
                result = await solve(PROBLEM, ETS(n=4), models, scorer=scorer, budget=budget, sampling=DRAWN)
                return result, time.monotonic() - began
            finally:
                for backend in models.values():
                    await backend.aclose()

    result, took = asyncio.run(run())
    assert result.stop == "deadline"
    assert took < seconds + backend_grace() + 1.0


def test_a_replica_that_is_not_there_at_the_start_joins_when_it_is(policy: Server, twin: Server) -> None:
    said: list[str] = []
    up = False

    async def down(asked: web.Request, session: ClientSession) -> web.Response | None:
        return None if up else web.Response(status=503)

    async def run() -> None:
        nonlocal up
        async with proxy(twin, down) as url:
            backend = await SGLangBackend.open([url, policy.url], notice=said.append)
            try:
                await voted(backend, n=2)
                assert [each.url for each in backend.replicas] == [policy.url]
                up, ends = True, time.monotonic() + 20
                while len(backend.replicas) < 2 and time.monotonic() < ends:
                    await voted(backend, n=2)
                    await asyncio.sleep(0.5)
                assert [each.url for each in backend.replicas] == [policy.url, url]
            finally:
                await backend.aclose()

    asyncio.run(run())
    without, joined = said
    assert "going on without a replica" in without
    assert "answers now" in joined


def test_a_replica_that_drains_gets_nothing_new_and_goes(policy: Server, twin: Server) -> None:
    async def run(backend: SGLangBackend) -> None:
        backend.drain(policy.url)
        assert [replica.url for replica in backend.replicas] == [twin.url]
        before = generated(policy)
        await voted(backend, n=4)
        assert generated(policy) == before
        await backend.add(policy.url)
        assert [replica.url for replica in backend.replicas] == [twin.url, policy.url]

    connected([policy.url, twin.url], run)


def test_a_call_that_nobody_can_serve_is_a_failure_with_no_cost(policy: Server) -> None:
    async def run() -> None:
        async with proxy(policy, after_opening(answering(500, b"no"))) as url:
            backend = await SGLangBackend.open([url])
            try:
                await backend.generate(request(backend))
            finally:
                await backend.aclose()

    with pytest.raises(BackendError, match=r"answers 500: no.*tried 4 times") as failure:
        asyncio.run(run())
    assert failure.value.usage is not None
    assert failure.value.usage.completion_tokens == 0
