"""What all the Runs of one job share: its ledger, its log, its models and its clock."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from tts.answers import AnswerKind, Code, Runner
from tts.backends.base import Backend, Reader
from tts.cost import Tariff
from tts.errors import NoImages, UsageError
from tts.halt import Halt
from tts.journal import Header, Log
from tts.ledger import Ledger
from tts.strategy import Strategy, Verifier
from tts.trace import Books
from tts.types import Budget, ModelInfo, Path, Problem, Reason, Remaining, Role, Sampling, Stop


@dataclass
class Job:
    """The state behind the door. Strategies never see it."""

    header: Header
    models: Mapping[Role, Backend]
    tariffs: Mapping[Role, Tariff]
    scorer: Verifier | None
    runner: Runner | None
    ledger: Ledger
    log: Log
    books: Books
    halt: Halt = field(default_factory=Halt)
    over: bool = False
    stepwise: bool = False
    """Whether steps were asked for."""
    best: Path | None = None
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once calls have had their time to answer a halt: of a suspended job, nobody waits for anything any more."""
    _promise: tuple[bool, int, float] = (False, 0, 0.0)
    _since: float | None = None
    _timer: asyncio.TimerHandle | None = None

    @property
    def sampling(self) -> Sampling:
        return self.header.sampling

    @property
    def budget(self) -> Budget:
        return self.header.budget

    def go_live(self) -> None:
        """Start the clock: from here on things happen that the journal does not know."""
        if self._since is not None:
            return
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        if self.budget.seconds is not None:
            left = max(0.0, self.budget.seconds - self.log.elapsed)
            self._timer = loop.call_later(left, self.halt.set, "deadline")

    def end(self) -> None:
        self.over = True
        self.halt.close()
        if self._timer is not None:
            self._timer.cancel()

    def elapsed(self) -> float:
        """Seconds the job has run, not counting the time between a crash and its resumption."""
        if self._since is None:
            return self.log.elapsed
        return self.log.elapsed + asyncio.get_running_loop().time() - self._since

    def remaining(self) -> Remaining:
        """The budget less what is spent and set aside. Open holds are not subtracted: what they will give
        back depends on timing, and a strategy must see nothing that does."""
        return remaining(self.budget, self.ledger, self.elapsed())

    def at_first(self) -> Remaining:
        """What there was before anything was spent: what a strategy sees until its first outcome, also on a replay."""
        return remaining(self.budget, Ledger(self.budget.limit, reserve=self.budget.reserve), 0.0)

    def consider(self, path: Path) -> None:
        """Remember the most promising path, for the finisher: a finished one, that of most steps, the best scored, the
        longest. Steps go before scores: those of beginnings are higher where a score is the product of many."""
        promise = (path.finished, 0 if path.finished else len(path.steps), path.score.value if path.score else 0.0)
        longer = promise == self._promise and not path.finished and self.best and path.tokens > self.best.tokens
        if self.best is None or promise > self._promise or longer:
            self.best, self._promise = path, promise

    def check(self, strategy: Strategy, problem: Problem) -> None:
        """Refuse, before the first token, a strategy that needs what is not there."""
        # A job that has ended is only read back: what programs did is in its journal.
        runs = self.runner is not None or self.log.ended is not None
        check(strategy, problem, self.scorer, self.models["policy"].info, runs=runs)
        check_policy(self.models["policy"].info, problem, self.sampling)
        if self.scorer is not None and self.scorer.reads is not None and "scores" in strategy.needs:
            check_reader(self.scorer, self.models.get(self.scorer.reads), problem)
        if strategy.reads is not None:
            check_reader(strategy, self.models.get(strategy.reads), problem)


def check_policy(policy: ModelInfo, problem: Problem, sampling: Sampling) -> None:
    """Refuse what a policy cannot be held to, or does not see."""
    if sampling.json_schema is not None and "grammar" not in policy.capabilities:
        raise UsageError(f"{policy.name} has no grammar: it cannot be held to a JSON Schema")
    if sampling.structural_tag is not None and "structural_tag" not in policy.capabilities:
        raise UsageError(f"{policy.name} has no grammar for calls of functions; an SGLang server with xgrammar has one")
    if any(message.images for message in problem.messages) and "images" not in policy.capabilities:
        raise NoImages(f"{policy.name} takes text only, and no images")


def check_reader(asker: Verifier | Strategy, reader: Backend | None, problem: Problem) -> None:
    """Refuse a verifier or strategy whose model is not there, cannot read, or cannot be asked what it will be."""
    if reader is None:
        raise UsageError(f"{asker.name} needs a model that reads; give {asker.name} its model, or name another one")
    if "prefill_score" not in reader.info.capabilities:
        raise UsageError(f"{asker.name} needs prefill_score from its model, and {reader.info.name} does not offer it")
    sheet = asker.trial(problem)
    if sheet is None or not isinstance(reader, Reader):
        return
    try:
        reader.sheet_tokens(sheet)
    except UsageError as error:
        raise UsageError(f"{asker.name}{asker.manner} cannot ask {reader.info.name}: {error}") from error


def check(
    strategy: Strategy, problem: Problem, scorer: Verifier | None, policy: ModelInfo, *, runs: bool = False
) -> None:
    """Refuse a strategy that needs what this problem, this verifier or this model does not offer; `runs` says whether
    there is a sandbox."""
    needs = set(strategy.needs)
    check_votes(strategy, problem)
    if "scores" in needs and scorer is None:
        raise UsageError(f"{strategy.name} needs scores; name a verifier")
    if scorer is not None and "scores" in needs:
        needs |= scorer.needs
    if "runner" in needs:
        _check_runner(problem.kind, runs)
    missing = needs - {"votes", "scores", "runner"} - policy.capabilities
    if missing:
        raise UsageError(
            f"{strategy.name} needs {', '.join(sorted(missing))} from the backend, and {policy.name} does not offer it"
        )


def check_votes(strategy: Strategy, problem: Problem) -> None:
    """Refuse votes on answers that cannot be counted, whatever the model."""
    if "votes" in strategy.needs and not problem.kind.votes:
        raise UsageError(
            f"{strategy.name} counts votes, and no two answers of kind {problem.kind.name!r} are the same; "
            f"{problem.kind.without_votes}"
        )


def _check_runner(kind: AnswerKind, runs: bool) -> None:
    if not isinstance(kind, Code):
        raise UsageError(f"unit tests are of programs, and an answer of kind {kind.name!r} is none; ask for code")
    if not runs:
        raise UsageError("unit tests are off: this job has no sandbox; give it runner=Sandbox().checked()")


def remaining(budget: Budget, ledger: Ledger, elapsed: float) -> Remaining:
    """What a budget has left after so many seconds."""
    spent = ledger.spent
    tokens = None if budget.tokens is None else budget.tokens - ledger.reserve - int(spent.tokens)
    return Remaining(
        tokens=None if tokens is None else max(0, tokens),
        seconds=None if budget.seconds is None else max(0.0, budget.seconds - elapsed),
        usd=None if budget.usd is None else max(0.0, budget.usd - spent.usd),
        flops=None if budget.flops is None else max(0.0, budget.flops - spent.flops),
    )


def stop_of(reasons: Collection[Reason | None]) -> Stop:
    """What ended a search: the caller or the clock before the budget, and the budget before the strategy."""
    ended: tuple[Stop, ...] = ("cancelled", "deadline", "budget")
    return next((reason for reason in ended if reason in reasons), "done")
