"""From trials to the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from rich.table import Table

from evals.page import percent
from evals.runs.rivals.trials import Outcome, Phase, Trial
from evals.statistics import Estimate, mean_by_problem
from evals.suites import Item, Suite

NOTHING, MISSING = "reports nothing", "–"


def table(trials: Sequence[Trial], suite: Suite, items: Sequence[Item]) -> Table:
    """A row per tool and configuration."""
    found = Table(title="Rivals, one SGLang server")
    for name in ("tool", "reported / generated", "… one in 8 fails", "… cancelled", "tokens a problem", "accuracy",
                 "kept, one in 8 fails", "accuracy then", "tokens after cancel, a job", "p95 at 32 jobs"):  # fmt: skip
        found.add_column(name, justify="left" if name == "tool" else "right")
    for tool in dict.fromkeys(trial.tool for trial in trials):
        found.add_row(tool, *_cells(_Mine([trial for trial in trials if trial.tool == tool], suite, items)))
    return found


class _Mine:
    """One tool's trials."""

    def __init__(self, trials: Sequence[Trial], suite: Suite, items: Sequence[Item]) -> None:
        self._trials, self._suite, self._items = trials, suite, {item.problem.id: item for item in items}

    def of(self, phase: Phase) -> list[Trial]:
        return [trial for trial in self._trials if trial.phase == phase]

    def answer(self, outcome: Outcome) -> str | None:
        """What the tool's text states, by our rule."""
        return None if outcome.text is None else self._suite.kind.extract(outcome.text, finished=True)

    def right(self, outcome: Outcome) -> bool:
        answer = self.answer(outcome)
        return answer is not None and self._suite.right(self._items[outcome.id], answer)

    def share(self, phase: Phase, holds: Callable[[Outcome], bool]) -> str:
        """Of problems, with an interval by problem."""
        values: Mapping[str, list[float]] = defaultdict(list)
        for trial in self.of(phase):
            for outcome in trial.outcomes:
                values[outcome.id].append(float(holds(outcome)))
        return _interval(mean_by_problem(values)) if values else MISSING


def _cells(mine: _Mine) -> Iterable[str]:
    plain = mine.of("plain")
    for trials in (plain or mine.of("accounting"), mine.of("failing"), mine.of("cancelled")):
        yield _spread([_accounted(trial) for trial in trials], "{:.3f}", NOTHING)
    yield _spread([trial.counted / trial.jobs for trial in plain], "{:,.0f}")
    yield mine.share("plain", mine.right)
    yield mine.share("failing", lambda outcome: mine.answer(outcome) is not None)
    yield mine.share("failing", mine.right)
    yield _spread([trial.after / trial.jobs for trial in mine.of("cancelled") if trial.after is not None], "{:,.0f}")
    yield _spread([_p95(trial) for trial in plain], "{:.1f} s")


def _accounted(trial: Trial) -> float | None:
    """Tokens the tool says it used, over those that were generated; None where it says nothing of any job."""
    said = [outcome.tokens for outcome in trial.outcomes if outcome.tokens is not None]
    generated = trial.metered if trial.phase == "cancelled" else trial.counted
    return sum(said) / generated if said and generated else None


def _p95(trial: Trial) -> float:
    return float(np.quantile([outcome.seconds for outcome in trial.outcomes], 0.95))


def _spread(values: Sequence[float | None], form: str, nothing: str = MISSING) -> str:
    """The mean over seeds, and the lowest and the highest."""
    known = [value for value in values if value is not None]
    if not known:
        return nothing if values else MISSING
    mean, low, high = (form.format(each) for each in (np.mean(known), min(known), max(known)))
    return f"{mean} ({low} to {high})" if low != high else mean


def _interval(found: Estimate) -> str:
    mean, low, high = map(percent, found)
    return f"{mean} ({low} to {high})" if low != high else mean


def checks(trials: Sequence[Trial]) -> Iterable[str]:
    """Where the proxy and the server do not agree on what was generated."""
    for trial in trials:
        if trial.phase != "cancelled" and not trial.cut and trial.counted != trial.metered:
            yield (
                f"{trial.tool}, {trial.phase}, seed {trial.seed}: {trial.counted:,} tokens passed the proxy, "
                f"{trial.metered:,} were generated"
            )
