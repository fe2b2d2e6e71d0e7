"""How fast the door is: samples per second through ledger, journal and trace, and memory over many solves.

    python -m evals.runs.door

One core, a fake backend without latency, so that nothing but our own code is measured. Targets: at least 5,000
samples/s with the journal in memory; memory flat over 1,000 solves of 100 samples each.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path as File

from evals.script import Script
from strategies.best_of_n import BestOfN
from tts.answers import Maths
from tts.backends.fake import FakeBackend
from tts.journal import Journal, JsonlJournal
from tts.solve import solve
from tts.types import Budget, Problem
from verifiers.confidence import Confidence

TARGET = 5_000
BATCH, SOLVES, ROUNDS = 100, 20, 9
REPLY = "Twelve eggs at two dollars each are twenty-four dollars, so the answer is \\boxed{24}"


async def once(samples: int, journal: Journal | None = None) -> None:
    """Solve one problem by best-of-N."""
    problem = Problem.ask("How much are twelve eggs at two dollars each?", Maths())
    result = await solve(
        problem,
        BestOfN(n=samples),
        {"policy": FakeBackend(lambda request: REPLY)},
        scorer=Confidence(),
        budget=Budget(tokens=1_000 * samples),
        journal=journal,
    )
    assert result.samples.finished == len(result.trace.calls) == samples


async def round_of(folder: File | None = None) -> float:
    """Samples per second over some solves, each with a journal of its own."""
    began = time.perf_counter()
    for i in range(SOLVES):
        if folder is None:
            await once(BATCH)
        else:
            with JsonlJournal(folder / f"{i}.jsonl") as journal:
                await once(BATCH, journal)
            (folder / f"{i}.jsonl").unlink()
    return BATCH * SOLVES / (time.perf_counter() - began)


def rate(name: str, rates: list[float], target: int | None) -> None:
    """Print a rate beside its target."""
    median = statistics.median(rates)
    against = f"target {target:,}, ratio {median / target:.2f}" if target else "no target"
    print(f"{name}: median {median:,.0f} samples/s of {len(rates)} (min {min(rates):,.0f}); {against}", flush=True)


async def main() -> None:
    """Print each figure beside its target."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    await round_of()
    gc.freeze()  # as the command does, once all is imported
    print(f"this machine: {additions():.2f} s for ten million additions in a Python loop")
    rate("journal in memory", [await round_of() for _ in range(ROUNDS)], TARGET)
    with tempfile.TemporaryDirectory() as folder:
        rate("journal in a JSONL file", [await round_of(File(folder)) for _ in range(ROUNDS)], None)
    await memory()


def additions() -> float:
    """Seconds for a loop that only Python's own speed decides, to compare machines by."""
    began, total = time.perf_counter(), 0
    for i in range(10_000_000):
        total += i
    return time.perf_counter() - began


async def memory() -> None:
    """Print how the process grows over a thousand solves."""
    sizes = []
    for _ in range(10):
        for _ in range(100):
            await once(BATCH)
        gc.collect()
        sizes.append(resident())
    growth = (sizes[-1] - sizes[0]) / sizes[0]
    print(
        f"memory over 1,000 solves of {BATCH} samples: {sizes[0]:.1f} MB after the first 100, {sizes[-1]:.1f} MB at "
        f"the end; growth {growth:+.1%}, target under 2%"
    )


def resident() -> float:
    """Resident set, in MB."""
    pages = int(File("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    Script(__doc__).run(lambda: asyncio.run(main()))
