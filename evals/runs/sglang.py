"""What goes through us to an SGLang server, beside what the server itself says and what a raw client needs.

    make sglang
    python -m evals.runs.sglang [--only pairs,streams,bill,cache,placement]

Starts its own servers, with the lab's models, on this machine's processor, so its seconds say nothing of a GPU's:
ratios and counts are what is measured.

* pairs: best of 32 through us against an asyncio client that sends the same requests, in turns, from an empty cache;
* streams: 512 streams at once, and how late this process's event loop is meanwhile;
* bill: tokens billed against tokens counted by the server, with half of the jobs cancelled; tokens after a cancel;
* cache: the share of the prompt tokens that could come from the prefix cache that did, for searches over steps;
* placement: see `evals.runs.placement`.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path as File
from typing import Any

import aiohttp

from evals.runs import placement
from evals.runs.door import additions
from evals.script import Script
from evals.sglang_cpu import Server
from evals.suites import SUITES
from strategies import ETS, Beam, BestOfN, Rebase, SelfConsistency
from tts.backends.base import Backend, Request
from tts.backends.sglang import SGLangBackend
from tts.backends.sglang.draft import Draft
from tts.backends.sglang.wire import generation
from tts.halt import Halt
from tts.journal import Held, Record
from tts.solve import solve
from tts.strategy import Strategy
from tts.types import Budget, Completion, Path, Problem, Result
from verifiers import Confidence, ProcessReward

MODELS = File("evals/lab/models")
PAIRS, SAMPLES, SLOWER = 12, 32, 1.03
STREAMS, LAG = 512, 0.050
JOBS, AFTER = 40, 2
CACHED, PROBLEMS, PATHS = 0.98, 12, 16
SUITE = SUITES["chain"]
SAMPLING = SUITE.sampling
ROOMY = Budget(tokens=1_000_000)
PARTS = ("pairs", "streams", "bill", "cache", "placement")


def problems(count: int) -> list[Problem]:
    """The first of the development split."""
    return [item.problem for item in SUITE.items("dev", count, None)]


async def pairs(policy: Server) -> None:
    """Wall clock through us and without us."""
    backend = await SGLangBackend.open([policy.url])
    ratios = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for i, problem in enumerate(problems(PAIRS + 1)):
            ways: list[Callable[[], Awaitable[Any]]] = [
                lambda problem=problem: through_us(backend, problem),  # type: ignore[misc]
                lambda problem=problem: raw(session, backend, policy.url, problem),  # type: ignore[misc]
            ]
            seconds = {way: await timed(session, policy.url, ways[way]) for way in ((0, 1) if i % 2 else (1, 0))}
            if i:  # the first pair imports, connects and warms up
                ratios.append(seconds[0] / seconds[1])
    low, high = median_interval(ratios)
    print(
        f"best of {SAMPLES}, {len(ratios)} pairs: {statistics.median(ratios):.3f} times a raw client's wall clock "
        f"(95 % of the median {low:.3f} to {high:.3f}); target {SLOWER}"
    )
    await backend.aclose()


async def timed(session: aiohttp.ClientSession, url: str, way: Callable[[], Awaitable[Any]]) -> float:
    """Seconds, from an empty cache."""
    async with session.post(f"{url}/flush_cache") as reply:
        await reply.read()
    began = time.perf_counter()
    await way()
    return time.perf_counter() - began


async def through_us(backend: Backend, problem: Problem) -> Result:
    """The whole of a job."""
    return await solve(
        problem, BestOfN(n=SAMPLES), {"policy": backend}, budget=ROOMY, scorer=Confidence(), sampling=SAMPLING
    )


async def raw(session: aiohttp.ClientSession, backend: SGLangBackend, url: str, problem: Problem) -> None:
    """The same requests, all at once, their answers read to the end."""
    path = Path.of(problem)
    request = asked(backend, path, f"{time.monotonic_ns()}")
    draft = Draft(request, backend.speller.parts(path), backend.speller.prompter)
    body = generation(request, draft.prompt, request.max_tokens, backend.speller.prompter.turn_ends, draft.interval)

    async def one(number: int) -> bytes:
        async with session.post(f"{url}/generate", json={**body, "rid": f"{request.id}{number:04};"}) as reply:
            return await reply.read()

    await asyncio.gather(*(one(number) for number in range(SAMPLES)))


def asked(backend: SGLangBackend, path: Path, name: str, **more: Any) -> Request:
    """A request for one sample."""
    return Request(
        id=f"{name};",
        path=path,
        prompt_tokens=backend.prompt_tokens(path),
        max_tokens=SAMPLING.max_tokens,
        sampling=SAMPLING,
        seed=0,
        **{"halt": Halt(), **more},
    )


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % of the medians of resampled values."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(10_000))
    return medians[250], medians[9_749]


async def streams(policy: Server) -> None:
    """The event loop's lateness while many jobs are served."""
    backend = await SGLangBackend.open([policy.url])
    late: list[float] = []
    watcher = asyncio.create_task(watch_loop(late))
    began = time.perf_counter()
    jobs = [through_us(backend, problem) for problem in problems(STREAMS // SAMPLES)]
    results = await asyncio.gather(*jobs)
    watcher.cancel()
    with suppress(asyncio.CancelledError):
        await watcher
    tokens = sum(result.bill.tokens for result in results)
    seconds = time.perf_counter() - began
    p99 = sorted(late)[int(0.99 * len(late))]
    print(
        f"{STREAMS} streams: event loop late by {1e3 * p99:.1f} ms at the 99th percentile, {1e3 * max(late):.0f} ms at "
        f"most ({len(late):,} looks, {tokens / seconds:,.0f} tokens/s); target {1e3 * LAG:g} ms"
    )
    await backend.aclose()


async def watch_loop(late: list[float], every: float = 0.005) -> None:
    """How much later than it should a short sleep ends."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(every)
        late.append(time.perf_counter() - began - every)


async def bill(policy: Server) -> None:
    """Jobs, half of which are cancelled, against the server's counter; then what comes after a cancel."""
    backend = await SGLangBackend.open([policy.url])
    before = policy.counted("sglang:generation_tokens_total")
    results = await asyncio.gather(*(cancelled(backend, problem, i) for i, problem in enumerate(problems(JOBS))))
    billed = sum(result.bill.tokens for result in results)
    counted = policy.counted("sglang:generation_tokens_total") - before
    ended = sum(result.stop == "cancelled" for result in results)
    print(
        f"{JOBS} jobs, {ended} cancelled in the middle: billed {billed:,}, counted by the server {counted:,}; "
        f"difference {billed - counted}, target 0"
    )
    more = await after_cancel(backend)
    print(
        f"after a cancel, {len(more)} live requests: mean {statistics.mean(more):.2f}, at most {max(more)} further "
        f"tokens; target {AFTER}"
    )
    await backend.aclose()


async def cancelled(backend: Backend, problem: Problem, number: int) -> Result:
    """A vote; every other one is cancelled some time after it began."""
    halt = Halt()
    if number % 2:
        asyncio.get_running_loop().call_later(random.Random(number).uniform(0.3, 3.0), halt.set, "cancelled")
    models = {"policy": backend}
    return await solve(problem, SelfConsistency(n=8), models, budget=ROOMY, sampling=SAMPLING, halt=halt)


async def after_cancel(backend: SGLangBackend) -> list[int]:
    """Of requests that stream every token: how many came after the halt beyond those that had."""
    halt, seen = Halt(), dict[int, int]()

    def watch(number: int) -> Callable[[Completion], bool]:
        def note(so_far: Completion) -> bool:
            seen[number] = so_far.usage.completion_tokens
            return False

        return note

    requests = [
        asked(backend, Path.of(problem), f"after:{time.monotonic_ns()}:{i:04}", halt=halt, watch=watch(i))
        for i, problem in enumerate(problems(SAMPLES))
    ]
    calls = [asyncio.create_task(backend.generate(request)) for request in requests]
    await asyncio.sleep(1.0)
    had = dict(seen)
    halt.set("cancelled")
    ended = await asyncio.gather(*calls)
    return [
        each.usage.completion_tokens - had[i] for i, each in enumerate(ended) if each.finish == "halted" and i in had
    ]


async def cache(policy: Server, reward: Server) -> None:
    """Searches, one at a time on one replica, against what a cache that forgets nothing could have served."""
    strategies: Mapping[str, Strategy] = {
        "beam": Beam(n=PATHS),
        "rebase": Rebase(n=PATHS),
        "ets": ETS(n=PATHS),
    }
    models = {"policy": await SGLangBackend.open([policy.url]), "verifier": await SGLangBackend.open([reward.url])}
    for name, strategy in strategies.items():
        share, calls = await cached(policy, strategy, models)
        print(
            f"{name}, {PATHS} paths, {calls:,} calls: {share:.2%} of shareable prompt tokens cached; "
            f"target {CACHED:.0%}"
        )
    for backend in models.values():
        await backend.aclose()


async def cached(policy: Server, strategy: Strategy, models: Mapping[str, SGLangBackend]) -> tuple[float, int]:
    """The share, and the policy's calls. Of a call all but the last token of its prompt can be shared; of a problem's
    first prompt nothing."""
    before = {mode: prefilled(policy, mode) for mode in ("prefill_cache", "prefill_compute")}
    held: list[Held] = []

    def observe(record: Record) -> None:
        if isinstance(record, Held) and record.role == "policy":
            held.append(record)

    first = 0
    scorer = ProcessReward(form="lab", how="prod")
    for problem in problems(PROBLEMS):
        first += models["policy"].prompt_tokens(Path.of(problem)) - 1
        await solve(problem, strategy, models, budget=ROOMY, scorer=scorer, sampling=SAMPLING, observe=observe)
    from_cache, computed = (prefilled(policy, mode) - count for mode, count in before.items())
    return from_cache / (from_cache + computed - first - len(held)), len(held)


def prefilled(policy: Server, mode: str) -> int:
    """Prompt tokens, by the server's own count."""
    return policy.counted("sglang:realtime_tokens_total", mode=mode)


def main(only: str) -> None:
    """Print each figure beside its target."""
    parts = only.split(",")
    print(f"this machine: {additions():.2f} s for ten million additions in a Python loop")
    if "placement" in parts:
        placement.main()
    with Server(MODELS / "chain-2m") as policy:
        for part in (pairs, streams, bill):
            if part.__name__ in parts:
                asyncio.run(part(policy))
        if "cache" in parts:
            with Server(MODELS / "chain-2m-prm") as reward:
                asyncio.run(cache(policy, reward))


if __name__ == "__main__":
    script = Script(__doc__)
    script.add_argument("--only", default=",".join(PARTS), help="some of the parts, with commas between")
    script.run(main)
