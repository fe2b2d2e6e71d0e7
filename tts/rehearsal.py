"""What a job would have come to on recorded samples, told at once: no event loop, no journal, no clock.

A strategy is run as it is. Its calls are dealt samples from a bank; budget and deadline work as they do behind the
door, in the same ledger, and time is what the samples took. The outcome is that of `solve` on a `BankBackend`.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

from tts.backends.base import Watch
from tts.bank import Reading
from tts.bank.deck import Deck, check
from tts.compute import value_of
from tts.cost import Tariff
from tts.errors import RunError, UsageError
from tts.job import remaining, stop_of
from tts.ledger import Ask, Grant, Ledger
from tts.purchase import SMALLEST_GRANT
from tts.run import Run
from tts.strategy import Strategy, Verifier
from tts.types import (
    NOTHING,
    Answer,
    Budget,
    Completion,
    Path,
    Problem,
    Reason,
    Remaining,
    Role,
    Sampling,
    Spend,
    Stop,
    Usage,
    number,
)

T = TypeVar("T")


class Rehearsed(NamedTuple):
    """How a job would have ended."""

    answer: Answer | None
    stop: Stop
    spent: Spend
    usage: Usage
    read: int
    """Tokens that verifiers read."""
    seconds: float
    finished: int
    truncated: int


class Part(NamedTuple):
    """A sample, or its beginning, as a path; what it costs; and how many seconds it takes."""

    path: Path
    spend: Spend
    seconds: float


class Stage:
    """What the rehearsals of one problem share: its samples, their cost, and what was computed about them."""

    def __init__(self, deck: Deck, tariff: Tariff) -> None:
        self.deck, self.tariff = deck, tariff
        self.computed: dict[tuple[Any, ...], Any] = {}
        self.readings: dict[str, Reading] = {}
        self._whole: dict[tuple[int, bool], Part] = {}

    def granted(self, place: int, tokens: int, first: bool) -> Part:
        """A sample, as far as so many tokens go."""
        if tokens < self.deck.lengths[place]:
            return self._part(self.deck.granted(place, tokens, first), place)
        key = place, first
        if key not in self._whole:
            self._whole[key] = self._part(self.deck.granted(place, tokens, first), place)
        return self._whole[key]

    def halted(self, place: int, part: Part, seconds: float, first: bool) -> Part:
        """As much of that as the time is enough for."""
        tokens = int(part.path.tokens * seconds / part.seconds)
        return self._part(self.deck.cut(place, tokens, seconds, "halted", first), place)

    def _part(self, completion: Completion, place: int) -> Part:
        path = self.deck.start.extend(completion, str(place))
        return Part(path, self.tariff.spend(completion.usage), completion.usage.seconds)

    def reading(self, name: str) -> Reading:
        """What a verifier said of all of the problem's samples."""
        if name not in self.readings:
            deck = self.deck
            found = deck.bank.reading(name, deck.asked.id)
            whole = [key for key, finish in zip(deck.keys, deck.finishes, strict=True) if finish == "stop"]
            if unusable := sum(not _usable(found.steps.get(key, ())) for key in whole):
                raise UsageError(
                    f"{deck.bank.folder} has no scores by {name} of {unusable} samples of problem {deck.asked.id}; "
                    f"let {name} read the bank to its end"
                )
            self.readings[name] = found
        return self.readings[name]


def _usable(scores: Sequence[float]) -> bool:
    return len(scores) > 0 and all(0 <= score < math.inf for score in scores)


class Rehearsal:
    """What a strategy is given instead of a `Run`. A verifier may use it too, but recorded samples cannot answer it."""

    def __init__(
        self, stage: Stage, budget: Budget, sampling: Sampling, scorer: Verifier | None = None, seed: int = 0
    ) -> None:
        self.rng, self.runner = random.Random(f"{seed}/"), None
        self.problem: Problem | None = None
        self.now, self.reasons = 0.0, set[Reason]()
        self.arrived: list[Path] = []
        self.looked = 0
        self._read: dict[str, set[str]] = {}
        self.ledger = Ledger(budget.limit, NOTHING, budget.reserve)
        self._stage, self._budget, self._sampling, self._scorer, self._seed = stage, budget, sampling, scorer, seed
        self._deadline = budget.seconds or math.inf
        self._left = stage.deck.fresh()
        self._calls = 0

    @property
    def remaining(self) -> Remaining:
        """What may still be spent."""
        return remaining(self._budget, self.ledger, self.now)

    async def sample(
        self,
        paths: Iterable[Path],
        n: int = 1,
        *,
        model: Role = "policy",
        sampling: Sampling | None = None,
        until: tuple[str, ...] = (),
        watch: Watch | None = None,
    ) -> list[Path]:
        """As `Run.sample`, of whole samples to the problem by the policy."""
        key, sampling, listed = self._next(), sampling or self._sampling, list(paths)
        deck = self._stage.deck
        if model != "policy":
            raise UsageError(f"{deck.bank.folder} holds what the policy said; to ask the {model} needs a live backend")
        if any(path.start != deck.start.start for path in listed):
            raise UsageError(f"{deck.bank.folder} holds no samples of this prompt")
        check(deck.bank, sampling, continued=any(path.steps for path in listed), ended_early=bool(until or watch))
        return self._play(key, len(listed) * n, sampling.max_tokens)

    async def score(self, paths: Iterable[Path]) -> list[Path]:
        """As `Run.score`."""
        self._next()
        if self._scorer is None:
            raise RunError("this job has no verifier; say so in the strategy's needs")
        listed = list(paths)
        scores = await self._scorer.score(listed, cast(Run, self))
        return [path.scored(score) if score else path for path, score in zip(listed, scores, strict=True)]

    def recorded(self, name: str, paths: Sequence[Path]) -> list[list[float] | None]:
        """What a verifier said of each path's steps; None of those that were cut short, or whose reading the budget
        does not pay. It reads the prompt once a job, and each different solution."""
        reading, deck = self._stage.reading(name), self._stage.deck
        tariff, prompt = Tariff(reading.model), deck.asked.prompt_tokens
        read = self._read.setdefault(name, set())
        found: list[list[float] | None] = []
        for path in paths:
            scores = reading.steps[deck.keys[int(path.steps[0].key or 0)]] if path.finished else None
            if scores is not None and path.text not in read:
                usage = Usage.of(prompt=prompt + path.tokens, cached=prompt if read else 0, completion=0, seconds=0.0)
                spend = tariff.spend(usage)
                if spend.within(self.ledger.free):
                    self.ledger.charge(spend)
                    read.add(path.text)
                    self.looked += usage.prompt_tokens - usage.cached_tokens
                else:
                    scores = None
                    self.reasons.add("budget")
            found.append(scores)
        return found

    async def compute(
        self, function: Callable[..., T], *arguments: Any, seconds: float = 10.0, otherwise: T | None = None
    ) -> T | None:
        """As `Run.compute`; what was computed in one rehearsal of the problem is known in the others."""
        self._next()
        key = (function, *map(repr, arguments))
        if key not in self._stage.computed:
            self._stage.computed[key] = asyncio.run(value_of(function, arguments, seconds))
        value, timed_out = self._stage.computed[key]
        return otherwise if timed_out else cast(T, value)

    def gather(self, *_: object) -> NoReturn:
        """Not on recorded samples, yet."""
        raise UsageError("branches are not rehearsed; run this strategy on the bank as a backend")

    arrivals = delegate = choose = gather

    def read(self, *_: object, **__: object) -> NoReturn:
        """Nobody is there to read."""
        raise UsageError(
            f"{self._stage.deck.bank.folder} answers for the policy only; for a reward model that has read it, score "
            "with recorded:by=NAME"
        )

    def _play(self, key: str, count: int, most: int) -> list[Path]:
        """Deal so many samples, as the ledger grants them, and let time pass until all have ended."""
        tariff, prompt = self._stage.tariff, self._stage.deck.asked.prompt_tokens
        ceiling = min(most, tariff.model.context - prompt)
        if ceiling < 1:
            self.reasons.add("context")
            return []
        ask = Ask(tariff, prompt, ceiling, min(SMALLEST_GRANT, ceiling))
        arrived: list[Path] = []
        under_way: list[tuple[float, int, Grant, Spend]] = []
        while True:
            while len(arrived) < count and self.now < self._deadline and (grant := self.ledger.book(ask)):
                part, end = self._dealt(f"{key}.{len(arrived)}", count - len(arrived), grant, ceiling)
                heappush(under_way, (end, len(arrived), grant, part.spend))
                arrived.append(part.path)
            if not under_way:
                break
            self.now, _, grant, spend = heappop(under_way)
            self.ledger.settle(grant.most, spend)
        if len(arrived) < count:
            self.reasons.add("deadline" if self.now >= self._deadline else "budget")
        return arrived

    def _dealt(self, key: str, wanted: int, grant: Grant, ceiling: int) -> tuple[Part, float]:
        """One sample, and when it ends."""
        stage, first, left = self._stage, not self.arrived, self._deadline - self.now
        place = stage.deck.deal(number(f"{self._seed}/{key}"), self._left, wanted)
        part = stage.granted(place, grant.tokens, first)
        end = self.now + part.seconds
        if part.seconds > left:
            part, end = stage.halted(place, part, left, first), self._deadline
            self.reasons.add("deadline")
        elif part.path.finish == "length" and grant.tokens < ceiling:
            self.reasons.add("budget")
        self.arrived.append(part.path)
        return part, end

    def _next(self) -> str:
        self._calls += 1
        return str(self._calls - 1)


def rehearse(
    stage: Stage,
    problem: Problem,
    strategy: Strategy,
    *,
    budget: Budget,
    sampling: Sampling,
    scorer: Verifier | None = None,
    seed: int = 0,
) -> Rehearsed:
    """One job on the samples of one problem; the seed decides which of them it is dealt."""
    run = Rehearsal(stage, budget, sampling, scorer, seed)
    run.problem = problem
    answers, answer = strategy.search(problem, cast(Run, run)), None
    while True:
        try:
            answers.__anext__().send(None)
        except StopIteration as arrived:
            answer = arrived.value
        except StopAsyncIteration:
            break
        else:
            raise RunError(f"{strategy.name} waits for something that its Run did not give it")
    return Rehearsed(
        answer=answer,
        stop=stop_of(run.reasons),
        spent=run.ledger.spent,
        usage=Usage.total([step.completion.usage for path in run.arrived for step in path.steps if step.completion]),
        read=run.looked,
        seconds=run.now,
        finished=sum(path.finished for path in run.arrived),
        truncated=sum(path.truncated for path in run.arrived),
    )
