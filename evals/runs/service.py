"""How fast the service is, with a backend that takes no time, beside Celery and FastAPI doing nothing.

    python -m evals.runs.service [--jobs 1000] [--rounds 5] [--memory 20000]

One Valkey that syncs every write, one worker, one API process, one bare Celery worker and one bare FastAPI process; the
load comes from this process. Targets: jobs from ticket to result at 0.6 of Celery's no-op tasks with results, through
HTTP at 0.4; the 99th percentile of a submission's latency within 3 times that of a no-op route at the same rate; 500
event streams on one API process; memory flat over 20,000 jobs.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path as File

import aiohttp

from evals.script import Script
from evals.sglang_cpu import free_port
from service.settings import Settings
from service.spec import Part as Named
from service.spec import Spec
from service.store import Store
from service.up import Part, valkey
from tts.answers import Maths
from tts.types import Budget, Problem, Sampling

BACKEND = "fake:evals.runs.service:at_once"
BODY = {"problem": "What is 12 * 17?", "answer": "maths", "strategy": "single", "budget": {"tokens": 500}}
RATE, STREAMS = 100.0, 500


def at_once(request: object) -> str:
    """An answer that takes no time."""
    return "The answer is \\boxed{204}."


class Bench:
    """All processes."""

    def __init__(self, folder: File) -> None:
        store, self.redis_url = valkey(folder)
        self.api, self.bare = free_port(), free_port()
        environment = {
            "TTS_REDIS_URL": self.redis_url,
            "TTS_DEFAULT_MODEL": BACKEND,
            "TTS_MOST_QUEUED": "1000000",
            "TTS_RETENTION_SECONDS": "60",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        us, python = (sys.executable, "-m", "service"), sys.executable
        quiet = ("worker", "--loglevel=ERROR", "--without-gossip", "--without-mingle", "-n", "noop@%h", "-c", "8")
        self.worker = Part("worker", [*us, "worker"], environment)
        self.web = Part("API", [*us, "api", "--port", str(self.api)], environment)
        self.parts = [
            store,
            self.worker,
            self.web,
            Part("Celery", [python, "-m", "celery", "--quiet", "-A", "evals.runs.noop", *quiet], environment),
            Part(
                "FastAPI",
                [python, "-m", "uvicorn", "evals.runs.noop:web", "--port", str(self.bare), "--log-level", "error"],
                environment,
            ),
        ]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api}"


@contextmanager
def running(bench: Bench) -> Iterator[Bench]:
    """Start all of it; stop all of it."""
    try:
        for part in bench.parts:
            part.start()
        yield bench
    finally:
        for part in reversed(bench.parts):
            part.stop(20.0)


def spec() -> Spec:
    """A job that is one call."""
    return Spec(
        id="job_" + secrets.token_hex(10),
        problem=Problem.ask("What is 12 * 17?", Maths()),
        model="default",
        strategy=Named(name="single"),
        budget=Budget(tokens=500),
        sampling=Sampling(max_tokens=64),
    )


def celery_round(jobs: int) -> float:
    """No-op tasks a second, from the first message to the last result."""
    from evals.runs.noop import noop

    began = time.perf_counter()
    sent = [noop.delay() for _ in range(jobs)]
    for each in sent:
        each.get(timeout=120)
    return jobs / (time.perf_counter() - began)


async def tickets_round(store: Store, jobs: int) -> float:
    """Jobs a second, from the first ticket to the last result read."""
    from service.worker.celery import ticket

    began = time.perf_counter()

    def send() -> None:
        for _ in range(jobs):
            ticket.apply_async((1,))

    async with store.redis.pubsub() as ended:
        await ended.subscribe("tts:ended")
        sending = asyncio.get_running_loop().run_in_executor(None, send)
        ids = await asyncio.gather(*(store.submit("default", [spec()]) for _ in range(jobs)))
        left = set(ids)
        async for message in ended.listen():
            if message["type"] == "message":
                left.discard(message["data"].decode())
            if not left:
                break
    found = await asyncio.gather(*(store.job("default", each) for each in ids))
    assert all(job and job.result and job.result["answer"] == "204" for job in found)
    await sending
    return jobs / (time.perf_counter() - began)


async def http_round(session: aiohttp.ClientSession, url: str, jobs: int) -> float:
    """Jobs a second through POST /v1/solve, 64 callers side by side."""
    left = iter(range(jobs))

    async def caller() -> None:
        for _ in left:
            async with session.post(f"{url}/v1/solve", json=BODY) as told:
                answer = await told.json()
                assert answer["result"]["answer"] == "204", answer

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(64)))
    return jobs / (time.perf_counter() - began)


async def submit_latency(session: aiohttp.ClientSession, bench: Bench, jobs: int) -> tuple[float, float]:
    """The 99th percentiles of a submission and of a no-op, in seconds: both come at random moments at the same rate, at
    the same time, so that they meet the same machine."""
    dice, tasks = random.Random(0), []
    urls = (f"{bench.url}/v1/jobs", f"http://127.0.0.1:{bench.bare}/noop")

    async def post(url: str) -> float:
        began = time.perf_counter()
        async with session.post(url, json=BODY) as told:
            assert told.status == 202, await told.text()
            await told.read()
        return time.perf_counter() - began

    for number in range(2 * jobs):
        await asyncio.sleep(dice.expovariate(2 * RATE))
        tasks.append(asyncio.create_task(post(urls[number % 2])))
    took = await asyncio.gather(*tasks)
    return p99(took[::2]), p99(took[1::2])


def p99(values: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(values, n=100)[98]


async def streams(session: aiohttp.ClientSession, url: str, count: int) -> tuple[int, float]:
    """How many event streams brought their result when so many are open at once, and how long the last one took."""
    body = {**BODY, "strategy": "best_of_n:n=8"}
    opened = asyncio.Barrier(count + 1)

    async def follow(id: str) -> bool:
        async with session.get(f"{url}/v1/jobs/{id}/events") as stream:
            await opened.wait()
            return any([line.startswith(b"event: result") async for line in stream.content])

    ids = []
    for _ in range(count):
        async with session.post(f"{url}/v1/jobs", json=body) as told:
            ids.append((await told.json())["id"])
    following = [asyncio.create_task(follow(each)) for each in ids]
    await opened.wait()
    began = time.perf_counter()
    got = await asyncio.gather(*following)
    return sum(got), time.perf_counter() - began


def resident(part: Part) -> float:
    """Megabytes of a process."""
    pages = int(File(f"/proc/{part.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def memory(store: Store, bench: Bench, jobs: int) -> dict[str, tuple[float, float]]:
    """Megabytes of worker and API after a tenth of so many jobs, and at the end."""
    parts = {"worker": bench.worker, "API": bench.web}
    first: dict[str, float] = {}
    async with aiohttp.ClientSession() as session:
        for done in range(0, jobs, 1_000):
            await tickets_round(store, 800)
            await http_round(session, bench.url, 200)
            if not first and done + 1_000 >= jobs // 10:
                first = {name: resident(part) for name, part in parts.items()}
    return {name: (first[name], resident(part)) for name, part in parts.items()}


@dataclass
class Found:
    """The figures, by round."""

    rates: list[tuple[float, float, float]] = field(default_factory=list)
    """Celery's tasks, our jobs, and our jobs through HTTP, a second."""
    p99: list[tuple[float, float]] = field(default_factory=list)
    """Seconds, of a submission and of a no-op."""
    streams: tuple[int, float] = (0, 0.0)
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)


async def measured(bench: Bench, jobs: int, rounds: int, many: int) -> Found:
    """All figures, each as soon as it is there."""
    store, found = Store(Settings(redis_url=bench.redis_url, most_queued=1_000_000, retention_seconds=60)), Found()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await ready(session, bench.url)
        await asyncio.to_thread(celery_round, 50)
        await tickets_round(store, 50)
        for number in range(rounds):
            bare = await asyncio.to_thread(celery_round, jobs)
            ours = await tickets_round(store, jobs)
            through = await http_round(session, bench.url, jobs)
            found.rates.append((bare, ours, through))
            say(f"round {number + 1}: Celery {bare:.0f}, jobs {ours:.0f}, through HTTP {through:.0f} a second")
        for _ in range(3):
            found.p99.append(await submit_latency(session, bench, 1_000))
            say("99th percentile of a submission and of a no-op: {:.1f} and {:.1f} ms".format(*_ms(found.p99[-1])))
        found.streams = await streams(session, bench.url, STREAMS)
    found.memory = await memory(store, bench, many)
    await store.aclose()
    return found


def _ms(seconds: tuple[float, float]) -> tuple[float, float]:
    return seconds[0] * 1e3, seconds[1] * 1e3


async def ready(session: aiohttp.ClientSession, url: str) -> None:
    """Wait for the API and its worker."""
    for _ in range(600):
        try:
            async with session.get(f"{url}/readyz") as told:
                if told.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise RuntimeError("the service did not get ready")


def report(found: Found) -> None:
    """Each figure beside its target."""
    for place, name, target in ((1, "jobs", 0.6), (2, "jobs through HTTP", 0.4)):
        ratios = [row[place] / row[0] for row in found.rates]
        rate = statistics.median(row[place] for row in found.rates)
        say(f"{name}: {rate:.0f} a second, {spread(ratios)} of Celery's no-op tasks; target {target}")
    ours = statistics.median(pair[0] for pair in found.p99) * 1e3
    ratios = [ours / theirs for ours, theirs in found.p99]
    say(f"submission, 99th percentile at {RATE:.0f} a second: {ours:.1f} ms, {spread(ratios)} of a no-op's; target 3")
    say(f"event streams: {found.streams[0]} of {STREAMS} brought their result, in {found.streams[1]:.1f} s")
    for name, (early, late) in found.memory.items():
        say(f"memory of the {name}: {early:.0f} MB after a tenth, {late:.0f} MB at the end: {late / early:.2f} times")


def spread(ratios: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.2f} times that ({min(ratios):.2f} to {max(ratios):.2f})"


def say(line: str) -> None:
    """Progress and figures."""
    print(line, flush=True)


def main(jobs: int, rounds: int, memory: int) -> None:
    """Measure, print, and keep the figures in runs/service.json."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(File(folder))
        os.environ["TTS_REDIS_URL"] = bench.redis_url
        with running(bench):
            found = asyncio.run(measured(bench, jobs, rounds, memory))
    File("runs").mkdir(exist_ok=True)
    File("runs/service.json").write_text(json.dumps(asdict(found), indent=2))
    report(found)


if __name__ == "__main__":
    script = Script(__doc__)
    script.add_argument("--jobs", type=int, default=1_000)
    script.add_argument("--rounds", type=int, default=5)
    script.add_argument("--memory", type=int, default=20_000)
    script.run(main)
