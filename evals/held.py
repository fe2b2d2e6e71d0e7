"""Whether a bank holds what a run asks of it, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evals.plan import Method, Plan
from evals.records import Cell
from evals.suites import Item
from tts.bank import Bank
from tts.errors import UsageError, counted
from tts.strategy import Strategy
from tts.types import Path


def check_plan(bank: Bank, plan: Plan) -> None:
    """Refuse a plan with problems of which the bank does not hold all samples, or not as many as are asked for."""
    bank.check_whole()
    for method in plan.methods:
        check_whole_samples(bank, method.strategy)
    counts = _held(bank, plan.items)
    if 0 in counts:
        raise _incomplete(bank, counts)
    check_samples(bank, counts, plan.cells())


def check_whole_samples(bank: Bank, strategy: Strategy) -> None:
    """Refuse a strategy that goes on where a path stands."""
    if "continue" in strategy.needs:
        raise UsageError(
            f"{strategy.name} continues paths, and {bank.folder} holds whole samples; run it live, with another backend"
        )


def check_samples(bank: Bank, counts: Sequence[int], cells: Iterable[tuple[Method, Cell]]) -> None:
    """Refuse numbers of samples that are more than some problem has; `counts` says how many each has. How many samples
    any other budget pays for, nobody knows before."""
    asked = [_samples(method, cell, bank) for method, cell in cells if cell.unit == "samples"]
    most = max(asked, default=0)
    lacking = [most - count for count in counts if count < most]
    if lacking:
        raise UsageError(
            f"for {counted(most, 'sample')} a job, {bank.folder} lacks {counted(sum(lacking), 'sample')} of "
            f"{counted(len(lacking), 'problem')}; fill it up with {bank.refill(len(counts), most)}, or ask for "
            f"no more than {min(counts)}"
        )


def _held(bank: Bank, items: Sequence[Item]) -> list[int]:
    """How many samples there are of each problem, which the bank knows by its prompt."""
    counts = bank.counts()
    asked = [bank.by_origin.get(Path.of(item.problem).origin) for item in items]
    return [counts[each.id] if each else 0 for each in asked]


def _incomplete(bank: Bank, counts: Sequence[int]) -> UsageError:
    source, complete, first = bank.manifest.source, sum(count > 0 for count in counts), counts.index(0)
    most = max([*counts, 1])
    fewer = f"ask for fewer with --limit {first}, or " if first else ""
    more = f"{fewer}fill it up with {bank.refill(len(counts), most)}" if complete else "name a bank of these problems"
    return UsageError(
        f"of the {counted(len(counts), 'problem')} asked for, {bank.folder} ({source.suite}, {source.split}) holds "
        f"{complete:,} complete; {more}"
    )


def _samples(method: Method, cell: Cell, bank: Bank) -> int:
    """How many samples such a job may draw, and is sure to be able to pay."""
    strategy = method.at(cell, bank.manifest.model.parameters, bank.manifest.sampling.max_tokens)
    return min(getattr(strategy, "n", 1), int(cell.amount))
