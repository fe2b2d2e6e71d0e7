"""How fast a bank opens, what it weighs, and how many jobs a second are rehearsed on it, on one core.

    make banks
    python -m evals.runs.whatif_speed banks/chain-test-chain-2m

Targets, for 2,000 problems of 256 samples: opened in under 1 s, under 200 MB of memory, at most 8 bytes a token on
disk; at least 2,000 jobs of best-of-16 a second.
"""

from __future__ import annotations

import os
import time
from pathlib import Path as File

from evals.plan import Method
from evals.runs.door import additions, resident
from evals.script import Script
from evals.whatif import Whatif, problems_of, rehearsed
from strategies import BestOfN
from tts.bank import Bank
from verifiers import Confidence

PROBLEMS = 500
"""Rehearsed on; the bank may hold more."""
OPEN_SECONDS, MEGABYTES, BYTES, RATE = 1.0, 200.0, 8.0, 2_000.0
EACH, N, ROUNDS = (2, 20), 16, 3
"""Jobs of a problem: what it costs to read its samples, and to put them together, is shared by all of them."""


def main(folder: File) -> None:
    """Print each figure beside its target."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"this machine: {additions():.2f} s for ten million additions in a Python loop")
    before, began = resident(), time.perf_counter()
    bank = Bank(folder)
    opened = time.perf_counter() - began
    tell("opened in", opened, "s", OPEN_SECONDS)
    tokens, samples = bank.tokens(), sum(bank.counts().values())
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{len(bank.problems):,} problems, {samples:,} samples, {tokens:,} tokens")
    tell("on disk", size / tokens, "bytes a token", BYTES)
    suite, items = problems_of(bank)
    for each in EACH:
        plan = Whatif(
            suite=suite,
            items=items[:PROBLEMS],
            methods=[Method(label="best_of_n", strategy=BestOfN(n=N), verifier=Confidence(), fixed=True)],
            budgets=[("samples", float(N))],
            resamples=each * len(items[:PROBLEMS]),
        )
        rates = sorted(rehearsed(bank, plan, None, lambda done: None).rate for _ in range(ROUNDS))
        rate = rates[ROUNDS // 2]
        said = f"best-of-{N}, {each} jobs a problem: {rate:,.0f} jobs/s (median of {ROUNDS} rounds)"
        print(f"{said}; {ratio(rate / RATE)} of {RATE:,.0f}")
    tell("in memory after all", resident() - before, "MB", MEGABYTES)


def tell(what: str, value: float, unit: str, most: float) -> None:
    """A figure that should be small, beside its target."""
    print(f"{what} {value:.3g} {unit}; target {most:g}, {ratio(most / max(value, 1e-9))}")


def ratio(share: float) -> str:
    """How much better than its target a figure is; under 1 it falls short."""
    return f"ratio {share:.2f}"


if __name__ == "__main__":
    script = Script(__doc__)
    script.add_argument("folder", type=File, metavar="BANK")
    script.run(main)
