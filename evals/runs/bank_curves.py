"""What a bank's samples are worth to 256 of them: coverage, votes and verifiers, by difficulty.

    make banks
    python -m evals.runs.bank_curves banks/chain-test-chain-2m
    python -m evals.lab.read banks/chain-test-chain-2m --rewards prm --limit 500
    python -m evals.runs.bank_curves banks/chain-test-chain-2m --limit 500 --rewards prm

prints a table per difficulty, with 95 % bootstrap intervals by problem. Coverage is pass@N, unbiased; the rest is
rehearsed, each method at each number about as often as `--resamples` says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path as File

from evals.plan import Method
from evals.records import Row
from evals.script import Script
from evals.statistics import mean_by_problem, pass_at_k
from evals.whatif import Findings, Whatif, problems_of, rehearsed
from strategies import BestOfN, SelfConsistency
from tts.bank import Bank
from verifiers import Confidence
from verifiers.recorded import Recorded

NUMBERS = (1, 4, 16, 64, 256)


def methods(rewards: Sequence[str]) -> Iterator[Method]:
    """The plain vote, the model's own confidence, and what each reward model chooses or weighs."""
    sure = Confidence()
    yield Method(label="majority", strategy=SelfConsistency(), verifier=sure, fixed=False)
    yield Method(label="most confident", strategy=BestOfN(), verifier=sure, fixed=False)
    for name in rewards:
        mean, product = Recorded(by=name, how="mean"), Recorded(by=name, how="prod")
        weighted = SelfConsistency(weights="weighted")
        yield Method(label=f"{name}, best mean", strategy=BestOfN(), verifier=mean, fixed=False)
        yield Method(label=f"{name}, weighted vote", strategy=weighted, verifier=product, fixed=False)


def tables(found: Findings, groups: dict[str, str]) -> Iterator[str]:
    """Lines of one table for all problems, and of one for each difficulty."""
    yield from _table("all", found, set(groups))
    for group in dict.fromkeys(groups.values()):
        yield from _table(group, found, {problem for problem, of in groups.items() if of == group})


def _table(name: str, found: Findings, problems: set[str]) -> Iterator[str]:
    rows: defaultdict[str, defaultdict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in found.section.rows:
        if row.problem in problems:
            rows[row.cell.method][row.cell.amount].append(row)
    yield f"\n| {name}, {len(problems)} problems | {' | '.join(f'{n}' for n in NUMBERS)} |"
    yield f"|---|{'---|' * len(NUMBERS)}"
    pools = [found.pools[problem] for problem in sorted(problems)]
    covered = [{str(i): [pass_at_k(p.recorded, p.right, n)] for i, p in enumerate(pools)} for n in NUMBERS]
    yield f"| coverage | {' | '.join(map(_said, covered))} |"
    for method, cells in rows.items():
        yield f"| {method} | {' | '.join(_said(_by_problem(cells[n])) for n in NUMBERS)} |"


def _by_problem(rows: Sequence[Row]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        values[row.problem].append(float(row.right))
    return values


def _said(values: dict[str, list[float]]) -> str:
    mean, low, high = mean_by_problem(values)
    return f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main(folder: File, limit: int | None, rewards: Sequence[str], resamples: int) -> None:
    """Rehearse, and print the tables."""
    bank = Bank(folder)
    suite, items = problems_of(bank)
    items = items[:limit]
    plan = Whatif(
        suite=suite,
        items=items,
        methods=list(methods(rewards)),
        budgets=[("samples", float(n)) for n in NUMBERS],
        resamples=resamples,
    )
    found = rehearsed(bank, plan, None, lambda done: None)
    print(f"{folder.name}: {plan.jobs:,} jobs, {found.rate:,.0f} a second")
    print("\n".join(tables(found, {item.problem.id: item.group for item in items})))


if __name__ == "__main__":
    script = Script(__doc__)
    script.add_argument("folder", type=File, metavar="BANK")
    script.add_argument("--limit", type=int, help="problems, the first ones (default: all)")
    script.add_argument("--rewards", nargs="+", default=[], help="reward models that have read them")
    script.add_argument("--resamples", type=int, default=4_000, help="jobs of each row and column")
    script.run(main)
