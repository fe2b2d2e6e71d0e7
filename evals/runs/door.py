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

from strategies.best_of_n import BestOfN
from tts.answers import Maths
from tts.backends.fake import FakeBackend
from tts.journal import Journal, JsonlJournal
from tts.solve import solve
from tts.types import Budget, Problem
from verifiers.confidence import Confidence

TARGET = 5_000
SAMPLES, BATCH, ROUNDS, SOLVES = 2_000, 100, 7, 1_000
REPLY = "Twelve eggs at two dollars each are twenty-four dollars, so the answer is \\boxed{24}"


async def once(samples: int, journal: Journal | None = None) -> float:
    """Solve once; samples per second."""
    problem = Problem.ask("How much are twelve eggs at two dollars each?", Maths())
    began = time.perf_counter()
    result = await solve(
        problem,
        BestOfN(n=samples),
        {"policy": FakeBackend(lambda request: REPLY)},
        scorer=Confidence(),
        budget=Budget(tokens=1_000 * samples),
        journal=journal,
    )
    seconds = time.perf_counter() - began
    assert result.samples.finished == len(result.trace.calls) == samples
    return samples / seconds


def rate(name: str, rates: list[float], target: int | None) -> None:
    """Print a rate beside its target."""
    median = statistics.median(rates)
    against = f"target {target:,}, ratio {median / target:.2f}" if target else "no target"
    print(f"{name}: median {median:,.0f} samples/s of {len(rates)} (min {min(rates):,.0f}); {against}", flush=True)


async def main() -> None:
    """Print each figure beside its target."""
    await once(100)
    rate("journal in memory", [await once(SAMPLES) for _ in range(ROUNDS)], TARGET)
    with tempfile.TemporaryDirectory() as folder:
        rates = []
        for i in range(ROUNDS):
            with JsonlJournal(File(folder) / f"{i}.jsonl") as journal:
                rates.append(await once(SAMPLES, journal))
        rate("journal in a JSONL file", rates, TARGET)
    await memory()


async def memory() -> None:
    """Print how the process grows over many solves."""
    sizes = []
    for i in range(SOLVES):
        await once(100)
        if i % 100 == 99:
            gc.collect()
            sizes.append(resident())
    growth = (sizes[-1] - sizes[0]) / sizes[0]
    print(
        f"memory over {SOLVES:,} solves of 100 samples: {sizes[0]:.1f} MB after the first 100, "
        f"{sizes[-1]:.1f} MB at the end; growth {growth:+.1%}, target under 2%"
    )


def resident() -> float:
    """Resident set, in MB."""
    pages = int(File("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    asyncio.run(main())
