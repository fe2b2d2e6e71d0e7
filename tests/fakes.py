"""Handlers, strategies and checks that several test files share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from typing import Any, ClassVar

from strategies import ABMCTS, DVTS, ETS, Beam, BestFirst, BestOfN, Particles, Rebase, SelfConsistency, Single
from tts.answers import Maths
from tts.backends.base import Backend, Request
from tts.backends.fake import FakeBackend, Reply
from tts.clock import run_virtual
from tts.journal import Header, Held, Journal, MemoryJournal, Record, Settled
from tts.run import Run
from tts.solve import solve
from tts.strategy import Strategy, Verifier
from tts.trace import Books
from tts.types import Answer, Budget, Path, Problem, Result, Role, Sampling
from verifiers import Confidence

PROBLEM = Problem.ask("How much is six times seven?", Maths())


def thinker(request: Request) -> Reply:
    """Thinks for a random while and mostly says 42; what it says depends on the request's seed alone."""
    draw = random.Random(request.seed)
    text = "hmm " * draw.randint(0, 40) + f"\\boxed{{{draw.choice([42, 42, 42, 41, 6, 7])}}}"
    return Reply(text, latency=draw.random(), per_token=draw.random() / 10, probability=draw.uniform(0.1, 1.0))


def stepper(request: Request) -> Reply:
    """Takes up to five steps before it says something; now and then a step that never ends, or an empty one."""
    draw, taken = random.Random(request.seed), len(request.path.steps)
    if taken >= 5 or draw.random() < 0.3:
        return thinker(request)
    words = draw.choice(["so ", "hmm ", "then "]) * draw.choice([0, 1, 2, 5, 9, 400])
    return Reply(f"{words}\n\n", latency=draw.random(), per_token=0.02, probability=draw.uniform(0.1, 1.0))


def unreliable(request: Request) -> Reply:
    """A thinker of which every fourth call fails."""
    reply = thinker(request)
    return Reply("", latency=reply.latency, error="overloaded") if request.seed % 4 == 0 else reply


def solved(
    strategy: Strategy,
    budget: Budget,
    *,
    backend: Backend | None = None,
    journal: Journal | None = None,
    problem: Problem = PROBLEM,
    sampling: Sampling | None = None,
    seed: int = 0,
    scorer: Verifier | None = None,
    readers: Mapping[Role, Backend] | None = None,
    **options: Any,
) -> Result:
    """Solve in virtual time, and check that nothing runs any more when it returns."""

    async def main() -> Result:
        result = await solve(
            problem,
            strategy,
            {"policy": backend or FakeBackend(thinker), **(readers or {})},
            budget=budget,
            scorer=scorer or Confidence(),
            sampling=sampling,
            journal=journal,
            seed=seed,
            **options,
        )
        assert asyncio.all_tasks() == {asyncio.current_task()}, "something runs after the result"
        return result

    return run_virtual(main())


def as_told(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Records without the name of the job, which is random."""
    told = [record.model_dump(mode="json") for record in records]
    for record in told:
        record.pop("job", None)
        record.pop("id", None)
    return told


def books_of(records: Iterable[Record]) -> Books:
    books = Books()
    for record in records:
        books.add(record)
    return books


def in_flight(records: Iterable[Record]) -> list[Held]:
    records = list(records)
    settled = {record.key for record in records if isinstance(record, Settled)}
    return [record for record in records if isinstance(record, Held) and record.key not in settled]


class Dying(MemoryJournal):
    """A journal whose process dies before the record number `after` is written."""

    class Killed(BaseException):
        pass

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    async def append(self, *records: Record) -> None:
        for record in records:
            if len(self.records) == self.after:
                raise Dying.Killed
            self.records.append(record)


class Nested(Strategy):
    """Uses every verb of a Run: branches, arrivals that it stops, nested strategies, local work, randomness."""

    name: ClassVar[str] = "nested"
    when: ClassVar[str] = "In tests."

    async def search(self, problem: Problem, run: Run) -> AsyncGenerator[Answer, None]:
        root = Path.of(problem)
        groups = await run.gather(
            lambda child: child.sample([root], 2, until=("hmm",)),
            lambda child: self._inner(child, root),
        )
        prefixes = [path for group in groups for path in group]
        heard: list[Path] = []
        arrivals = run.arrivals(*(_continue(path) for path in prefixes))
        async for paths in arrivals:
            heard += paths
            if len(heard) >= 2 + run.rng.randint(0, 1):
                arrivals.stop()
        async for answer in run.delegate(SelfConsistency(n=3), problem):
            yield answer
        if (run.remaining.tokens or 0) > 50:
            async for answer in run.delegate(BestOfN(n=2), problem):
                yield answer

    async def _inner(self, run: Run, root: Path) -> list[Path]:
        nested = await run.gather(lambda child: child.sample([root]), lambda child: child.sample([root]))
        return await run.score([path for paths in nested for path in paths])


def _continue(path: Path) -> Callable[[Run], Coroutine[Any, Any, list[Path]]]:
    async def child(run: Run) -> list[Path]:
        return await run.sample([path.append(" wait ")])

    return child


STRATEGIES: list[Strategy] = [
    Single(),
    BestOfN(n=64),
    SelfConsistency(n=64),
    SelfConsistency(n=64, weights="weighted"),
    SelfConsistency(n=64, weights="borda"),
    Beam(n=16),
    DVTS(n=16),
    Rebase(n=16),
    Rebase(n=16, fallback="vote"),
    ETS(n=16),
    Particles(n=16),
    BestFirst(n=16),
    ABMCTS(n=16),
    Nested(),
]

__all__ = ["PROBLEM", "STRATEGIES", "Dying", "Header", "Nested", "solved", "thinker", "unreliable"]
