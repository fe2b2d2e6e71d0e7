"""What metrics cost: of the door's throughput, of the page that Prometheus reads, and of traced jobs.

    python -m evals.runs.metrics [--rounds 15] [--jobs 1000]

Targets: counting takes at most 5 % of the door's throughput; /metrics of 50 tenants, 20 strategies and two models
within 50 ms. Traces are measured apart: jobs a second with them and without, spans sent to a collector that does
nothing with them.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path as File

import aiohttp
import httpx

from evals.runs.door import BATCH, SOLVES, once
from evals.runs.service import Bench, http_round, ready, running
from evals.script import Script
from service.metrics.count import Counting
from service.metrics.rows import page, row
from service.metrics.table import METRICS
from service.settings import Settings
from service.store import Store
from service.store.journal import TELLING
from tts.journal import MemoryJournal, Record

MOST_OF_THE_DOOR, MOST_OF_THE_PAGE = 0.05, 0.050
LABELS = {
    "tenant": [f"tenant-{i:02}" for i in range(50)],
    "strategy": [f"strategy-{i:02}" for i in range(20)],
    "model": ["qwen3-8b", "math-prm-7b"],
    "role": ["policy"],
    "state": ["done"],
    "stop": ["done"],
    "chosen": ["majority"],
    "reason": ["rate"],
    "outcome": ["finished"],
    "worker": ["host-1"],
    "replica": ["10.0.0.1:30000"],
}


class Counted(MemoryJournal):
    """A journal that is counted as the service counts its own, but sends nothing anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self._counting = Counting("tenant", "best_of_n", 0.0)
        self._due = 0.0

    async def append(self, *records: Record) -> None:
        await super().append(*records)
        self._counting.hear(records)
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + TELLING
            self._counting.told().pairs()


async def timed(journal: type[MemoryJournal]) -> float:
    """Seconds of processor time for some solves: what else this machine does is no cost of ours."""
    began = time.process_time()
    for _ in range(SOLVES):
        await once(BATCH, journal())
    return time.process_time() - began


async def door(rounds: int) -> None:
    """Print how much slower the door is that is counted, pair by pair."""
    await timed(Counted)
    ratios = []
    for i in range(rounds):
        first, second = (MemoryJournal, Counted) if i % 2 else (Counted, MemoryJournal)
        took = {first: await timed(first), second: await timed(second)}
        ratios.append(took[Counted] / took[MemoryJournal] - 1)
    shown("the door, counted", ratios, MOST_OF_THE_DOOR)


def shown(name: str, costs: list[float], target: float) -> None:
    """Print what something costs beside its target."""
    low, *_, high = statistics.quantiles(costs, n=20)
    told = f"{name}: {statistics.median(costs):+.1%} (5th to 95th percentile {low:+.1%} to {high:+.1%})"
    print(f"{told}; target at most {target:.0%}, ratio {statistics.median(costs) / target:.2f}", flush=True)


def every_row() -> dict[str, str]:
    """All rows of a deployment that is as large as the target says."""
    found: dict[str, str] = {}
    for metric in METRICS:
        bounds = [*map("{:g}".format, metric.buckets), "+Inf"]
        for labels in combinations([LABELS[label] for label in metric.labels]):
            if metric.kind == "histogram":
                found |= {row(f"{metric.name}_bucket", *labels, le=bound): "12345" for bound in bounds}
                found |= {row(f"{metric.name}_{each}", *labels): "12345.678" for each in ("count", "sum")}
            elif metric.kind == "counter":
                found[row(metric.name, *labels)] = "12345678"
    return found


def combinations(values: list[list[str]]) -> list[list[str]]:
    """One of each, in all ways."""
    return [[each, *rest] for each in values[0] for rest in combinations(values[1:])] if values else [[]]


async def reading(bench: Bench, rounds: int) -> None:
    """Print how long the page takes, over HTTP."""
    store = Store(Settings(redis_url=bench.redis_url))
    rows = every_row()
    async with store.redis.pipeline(transaction=False) as pipe:
        for name, amount in rows.items():
            pipe.hset("tts:metrics", name, amount)
        await pipe.execute()
    await store.redis.sadd("tts:labelled", *LABELS["tenant"])
    took = []
    async with httpx.AsyncClient() as client:
        for _ in range(rounds):
            began = time.perf_counter()
            told = await client.get(f"{bench.url}/metrics")
            took.append(time.perf_counter() - began)
    assert told.text.count("\n") > len(rows)
    began = time.perf_counter()
    page({name.encode(): amount.encode() for name, amount in rows.items()})
    alone = time.perf_counter() - began
    worst, median = max(took), statistics.median(took)
    print(
        f"/metrics, {len(rows):,} rows: median {median * 1e3:.0f} ms, worst {worst * 1e3:.0f} ms of {rounds} (the page "
        f"alone {alone * 1e3:.0f} ms); target {MOST_OF_THE_PAGE * 1e3:.0f} ms, ratio {median / MOST_OF_THE_PAGE:.2f}",
        flush=True,
    )
    await store.redis.delete("tts:metrics", "tts:labelled")
    await store.aclose()


async def traced(jobs: int, rounds: int) -> None:
    """Print jobs a second, with and without traces."""
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{collector.server_port}"
    rates: dict[str, list[float]] = {"off": [], "on": []}
    for i in range(rounds):
        for mode in ("off", "on") if i % 2 else ("on", "off"):
            os.environ["TTS_TRACING"] = mode
            with tempfile.TemporaryDirectory() as folder, running(Bench(File(folder))) as bench:
                rates[mode].append(await rate(bench, jobs))
    ratios = [on / off for on, off in zip(rates["on"], rates["off"], strict=True)]
    on, off = (statistics.median(rates[mode]) for mode in ("on", "off"))
    print(
        f"jobs a second, traced: {on:.0f} against {off:.0f}, ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}); no target"
    )
    collector.shutdown()


async def rate(bench: Bench, jobs: int) -> float:
    """Jobs a second through HTTP, once everything is there."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await ready(session, bench.url)
        await http_round(session, bench.url, 100)
        return await http_round(session, bench.url, jobs)


class Nothing(BaseHTTPRequestHandler):
    """Takes spans, and does nothing with them."""

    def do_POST(self) -> None:
        """Take them."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


async def measured(rounds: int, jobs: int) -> None:
    """Print each figure beside its target."""
    await door(rounds)
    with tempfile.TemporaryDirectory() as folder, running(Bench(File(folder))) as bench:
        async with aiohttp.ClientSession() as session:
            await ready(session, bench.url)
        await reading(bench, 20)
    await traced(jobs, 3)


def main(rounds: int, jobs: int) -> None:
    """Run all of it."""
    asyncio.run(measured(rounds, jobs))


if __name__ == "__main__":
    script = Script(__doc__)
    script.add_argument("--rounds", type=int, default=15)
    script.add_argument("--jobs", type=int, default=1_000)
    script.run(main)
