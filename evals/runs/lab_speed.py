"""How fast the lab is: 200 `chain` problems by best-of-16, from the first prompt to the last row.

    python -m evals.runs.lab_speed

Target: under 60 s on two cores, with nothing else running on them.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path as File

from evals.evaluate import evaluate
from evals.plan import Method, Plan
from evals.records import Row, Settings
from evals.script import Script
from evals.suites import SUITES
from strategies import BestOfN
from tts.backends.local import LocalBackend
from tts.solve import code_version
from verifiers import Confidence

PROBLEMS, N, TARGET = 200, 16, 60.0


async def once(folder: File, model: File) -> tuple[float, list[Row]]:
    """Seconds, and the rows."""
    suite = SUITES["chain"]
    backend = LocalBackend(model)
    plan = Plan(
        suite=suite,
        items=suite.items("dev", PROBLEMS),
        methods=[Method(label="best_of_n", strategy=BestOfN(n=N), verifier=Confidence(), fixed=True)],
        budgets=[("tokens", float(N * suite.sampling.max_tokens))],
        seeds=[0],
        concurrency=64,
    )
    settings = Settings(
        suite=suite.name, split="dev", data=None, model=backend.info, sampling=suite.sampling, code=code_version()
    )
    began = time.perf_counter()
    rows = await evaluate(plan, backend, settings, {}, folder, lambda row, new: None)
    return time.perf_counter() - began, rows


def main(model: File) -> None:
    """Print the figure beside its target."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, rows = asyncio.run(once(File(folder), model))
    tokens = sum(row.tokens for row in rows)
    print(f"{PROBLEMS} problems, best-of-{N}: {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s, {tokens:,} tokens")
    print(
        f"target {TARGET:.0f} s, ratio {TARGET / seconds:.2f}; right {sum(row.right for row in rows) / len(rows):.1%}"
    )


if __name__ == "__main__":
    script = Script(__doc__)
    usual = File(SUITES["chain"].backend.removeprefix("local:"))
    script.add_argument("model", type=File, nargs="?", default=usual, help="a policy's folder")
    script.run(main)
