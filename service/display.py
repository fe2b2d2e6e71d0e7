"""What a terminal shows: the budget burning down while samples arrive, and then the answer and its bill."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service.outcome import Outcome
from tts.errors import NoSamples
from tts.journal import Held, Record, Settled
from tts.strategy import Strategy
from tts.trace import FINISHER
from tts.types import Budget, Completion, Problem, Result

BACKEND_FAILED, NO_ANSWER, INTERRUPTED = 4, 3, 130
QUIET_SECONDS = 2.0
"""In a pipe, progress is a line now and then."""


class Progress:
    """The state of a job as its journal's new entries tell it."""

    def __init__(self, problem: Problem, strategy: Strategy, budget: Budget) -> None:
        self._kind, self._strategy, self._budget = problem.kind, strategy, budget
        self._began = time.monotonic()
        self.spent = self.sent = self.settled = self.steps = 0
        self.held: dict[str, int] = {}
        self.usd = self.flops = 0.0
        self.votes: Counter[str] = Counter()
        self.silent = 0

    def add(self, record: Record) -> None:
        if isinstance(record, Held):
            self.sent += 1
            self.held[record.key] = record.granted
        elif isinstance(record, Settled):
            self.held.pop(record.key, None)
            self.spent += int(record.spend.tokens)
            self.usd += record.spend.usd
            self.flops += record.spend.flops
            if record.segments and record.role == "policy" and not record.key.startswith(FINISHER):
                self._came(record.segments)

    def line(self) -> str:
        """One plain line."""
        in_flight = f", {len(self.held)} in flight" if self.held else ""
        return f"{self._strategy.name}: {self._arrived()}{in_flight}, {self._burnt()}"

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_row(Text(self._strategy.name, style="bold"), f"{self._arrived()}, {len(self.held)} in flight")
        table.add_row("budget", ProgressBar(total=1.0, completed=min(1.0, self._fraction()), width=40), self._burnt())
        return Group(table, self._vote())

    def _arrived(self) -> str:
        return f"{self.steps} steps, {self.settled} samples" if self.steps else f"{self.settled} samples"

    def _came(self, segments: Sequence[Completion]) -> None:
        """A step that goes on, or the end of a sample."""
        finish = segments[-1].finish
        if finish == "until":
            self.steps += 1
        else:
            self._sample("".join(segment.text for segment in segments), finish == "stop")

    def _sample(self, text: str, finished: bool) -> None:
        self.settled += 1
        answer = self._kind.extract(text, finished) if self._kind.votes else None
        if answer is None:
            self.silent += 1
        else:
            self.votes[answer] += 1

    def _vote(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for answer, count in self.votes.most_common(6):
            table.add_row(Text(shortened(answer, 40), style="cyan"), Text("█" * min(count, 60)), str(count))
        if self.silent and self._kind.votes:
            table.add_row(Text("no answer", style="dim"), Text("░" * min(self.silent, 60)), str(self.silent))
        return table

    def _fraction(self) -> float:
        budget = self._budget
        used = (
            (budget.tokens, self.spent),
            (budget.seconds, time.monotonic() - self._began),
            (budget.usd, self.usd),
            (budget.flops, self.flops),
        )
        return max(spent / limit for limit, spent in used if limit is not None)

    def _burnt(self) -> str:
        seconds = time.monotonic() - self._began
        tokens = f"{self.spent:,}" + (f" of {self._budget.tokens:,}" if self._budget.tokens else "") + " tokens"
        if self.held:
            tokens += f" ({sum(self.held.values()):,} reserved)"
        return tokens + f", {seconds:.0f}" + (f" of {self._budget.seconds:g}" if self._budget.seconds else "") + " s"


@contextmanager
def working(on: str) -> Iterator[None]:
    """Say that something takes a while: a spinner on a terminal, a line elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(on):
            yield
    else:
        click.echo(on, err=True)
        yield


@contextmanager
def progress(problem: Problem, strategy: Strategy, budget: Budget) -> Iterator[Callable[[Record], None]]:
    """Show progress on standard error: live on a terminal, a plain line now and then elsewhere."""
    state = Progress(problem, strategy, budget)
    console = Console(stderr=True)
    if console.is_terminal:
        with Live(state, console=console, refresh_per_second=8, transient=True):
            yield state.add
        return
    last = time.monotonic()

    def add(record: Record) -> None:
        nonlocal last
        state.add(record)
        if time.monotonic() - last >= QUIET_SECONDS:
            last = time.monotonic()
            click.echo(state.line(), err=True)

    yield add


def show(outcome: Result | NoSamples, strategy: str, as_json: bool, tree: RenderableType | None = None) -> int:
    """Print how a job ended, and perhaps a picture of its search; returns the exit code."""
    result = outcome.result if isinstance(outcome, NoSamples) else outcome
    code = _code(outcome)
    if as_json:
        click.echo(Outcome.of(result, strategy).model_dump_json(exclude={"alternatives"}))
    else:
        if tree is not None:
            Console(highlight=False).print(tree)
        _print(result, strategy)
    if isinstance(outcome, NoSamples):
        click.echo(f"tts: {outcome}", err=True)
    return code


def _code(outcome: Result | NoSamples) -> int:
    if isinstance(outcome, NoSamples):
        return BACKEND_FAILED
    if outcome.stop == "cancelled":
        return INTERRUPTED
    return 0 if outcome.answer is not None else NO_ANSWER


def _print(result: Result, strategy: str) -> None:
    console = Console(highlight=False, soft_wrap=True, file=sys.stdout)
    answer = result.answer
    if answer is None:
        console.print(Text("no answer", style="bold red"))
    else:
        console.print(Text("answer  ", style="dim"), Text(answer.text, style="bold green"), sep="", end="\n")
        console.print(Text(f"chosen  {answer.chosen} (support {answer.support:.3g})", style="dim"))
        if answer.votes:
            console.print(_votes(result))
        if answer.path.text.strip() != answer.text.strip():
            console.print(Text("sample  ", style="dim"), Text(shortened(answer.path.text.strip(), 600)), sep="")
    console.print(_bill(result, strategy))
    for note in result.notes:
        console.print(Text(f"note    {note}", style="yellow"))


def _votes(result: Result) -> RenderableType:
    assert result.answer is not None
    table = Table.grid(padding=(0, 2))
    for i, vote in enumerate(result.answer.votes[:8]):
        weight = "" if math.isclose(vote.weight, vote.count) else f"weight {vote.weight:.3g}"
        bar = Text("█" * min(vote.count, 60), style="green")
        table.add_row(
            Text("" if i else "votes ", style="dim"), shortened(vote.answer, 40), bar, str(vote.count), weight
        )
    return table


def _bill(result: Result, strategy: str) -> RenderableType:
    bill, samples = result.bill, result.samples
    usage = result.usage.get("policy")
    prompt = f", {usage.prompt_tokens:,} prompt ({usage.cached_tokens:,} cached)" if usage else ""
    lost = f" ({bill.lost:,} of them lost)" if bill.lost else ""
    usd = f"no price known for {', '.join(bill.unpriced)}" if bill.usd is None else f"${bill.usd:.6f}"
    read = sum(use.prompt_tokens - use.cached_tokens for role, use in result.usage.items() if role != "policy")
    prompt += f", {read:,} read by the verifier" if read else ""
    return Text(
        f"bill    {bill.tokens:,} tokens generated{lost}{prompt}; {bill.seconds:.1f} s; {usd}; {bill.flops:.3g} FLOPs\n"
        f"        {strategy}: {samples.finished} samples finished, {samples.truncated} truncated, "
        f"{samples.failed} failed; stopped: {result.stop}{_resident(result)}",
        style="dim",
    )


def _resident(result: Result) -> str:
    """What the KV cache has to hold, where a search prunes."""
    found = result.trace.selections
    if not found:
        return ""
    before, after = (sum(sizes) / len(found) for sizes in zip(*((s.before, s.after) for s in found), strict=True))
    return (
        f"\n        KV cache: {before:,.0f} tokens before a choice, {after:,.0f} after it, mean of {len(found)} choices"
    )


def shortened(text: str, length: int) -> str:
    """At most `length` characters, and a sign where something is missing."""
    return text if len(text) <= length else text[: length - 1] + "…"
