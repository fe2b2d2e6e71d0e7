"""The door: all that a strategy is given.

Everything bought here is reserved in the ledger and written to the journal before it is sent, settled and
written again when it comes back, and only then handed over. Budget, deadline and cancellation are therefore
not exceptions but shorter lists.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Self, TypeVar, cast

from tts.answers import Runner
from tts.backends.base import Reader, Watch
from tts.compute import value_of
from tts.errors import RunError, UsageError
from tts.halt import Halt
from tts.job import Job
from tts.journal import Arrived, Chosen, Computed, Settled
from tts.purchase import Look, Wish, outcome
from tts.strategy import Strategy
from tts.types import Answer, Completion, Path, Problem, Remaining, Role, Sampling, Sheet, Verdicts, digest

T = TypeVar("T")
N = TypeVar("N", int, float)
Child = Callable[["Run"], Awaitable[Any]]


class Run:
    """One strategy's permission to spend, or one branch's of it. Used only by the task it was given to."""

    def __init__(self, job: Job, prefix: str, halt: Halt, remaining: Remaining) -> None:
        self.rng = random.Random(f"{job.header.seed}/{prefix}")
        self._job, self._prefix, self._halt = job, prefix, halt
        self._seen = remaining
        self._calls = 0
        self._task = asyncio.current_task()
        self._branches: list[Arrivals | AsyncGenerator[Answer, None]] = []

    @property
    def remaining(self) -> Remaining:
        """What may still be spent, as of the last outcome this Run saw."""
        return self._seen

    @property
    def problem(self) -> Problem:
        """What the job is about."""
        return self._job.header.problem

    @property
    def sampling(self) -> Sampling:
        """How a continuation is drawn where a call does not say otherwise."""
        return self._job.sampling

    @property
    def runner(self) -> Runner | None:
        """The sandbox in which programs may be run, if there is one."""
        return self._job.runner

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
        """`n` continuations of each path, those of the first path first.

        Calls that were refused or failed are left out, so the list may be short or empty. `until` ends a step
        (kept in its text, the path stays open); `watch` ends a continuation early, and must be a pure function.
        """
        key = self._next()
        self._job.stepwise |= bool(until)
        sampling = sampling or self._job.sampling
        how = f"{model}\x00{sampling!r}\x00{until!r}"
        wishes: list[Wish] = []
        for path in paths:
            prompt = self._job.models[model].prompt_tokens(path)
            request = digest(f"{path.fingerprint}\x00{how}")
            wishes += [
                Wish(f"{key}.{i}", model, path, prompt, sampling, until, watch, request)
                for i in range(len(wishes), len(wishes) + n)
            ]
        settled = await self._bought(wishes)
        return [self._arrive(wish, each) for wish, each in zip(wishes, settled, strict=True) if each.segments]

    async def read(self, sheets: Iterable[Sheet], *, model: Role = "verifier") -> list[Verdicts | None]:
        """What a model says of each sheet, in order; None where it was refused or failed, or a halt came first. A
        sheet that comes several times is read once."""
        key, reader, listed = self._next(), self._job.models[model], list(sheets)
        distinct = list(dict.fromkeys(listed))
        if not isinstance(reader, Reader):
            raise UsageError(f"{reader.info.name} cannot read: its backend generates only")
        looks = [
            Look(f"{key}.{i}", model, sheet, reader.sheet_tokens(sheet), digest(f"{model}\x00{sheet!r}"))
            for i, sheet in enumerate(distinct)
        ]
        told = dict(zip(distinct, await self._bought(looks), strict=True))
        return [v if (v := told[sheet].verdicts) and v.pieces is not None else None for sheet in listed]

    async def choose(self, candidates: Sequence[Path], kept: Sequence[Path]) -> None:
        """Tell the journal which of some candidates the search goes on with: what had to be resident in the KV cache
        before and after, and the picture of the search, follow from it."""
        key, job = self._next(), self._job
        if job.log.chosen(key):
            return
        job.go_live()
        calls = [(path.newest[0], path.score) for path in candidates]
        chosen = Chosen(
            key=key,
            candidates=tuple(call for call, _ in calls if call),
            scores=tuple(score.value if score else None for call, score in calls if call),
            kept=tuple(dict.fromkeys(call for path in kept if (call := path.newest[0]))),
            at=job.elapsed(),
        )
        await job.log.append(chosen)

    async def score(self, paths: Iterable[Path]) -> list[Path]:
        """The same paths with their scores filled in, None where the verifier had none to give."""
        key = self._next()
        listed = list(paths)
        scorer = self._job.scorer
        if scorer is None:
            raise RunError("this job has no verifier; say so in the strategy's needs")
        scores = await scorer.score(listed, self._within(f"{key}/"))
        assert len(scores) == len(listed), f"{scorer.name}: {len(scores)} scores for {len(listed)} paths"
        scored = [path.scored(score) if score else path for path, score in zip(listed, scores, strict=True)]
        for path in scored:
            self._job.consider(path)
        return scored

    async def gather(self, *children: Child) -> list[Any]:
        """Run every child with a Run of its own, at once, to its end; their results in the order given."""
        key = self._next()
        ended = await all_of(self._branch(f"{key}/{i}/", child, self._halt) for i, child in enumerate(children))
        self._see(*(remaining for _, remaining in ended))
        return [value for value, _ in ended]

    def arrivals(self, *children: Child) -> Arrivals:
        """Run every child at once and iterate over their results as they come; `.stop()` ends the rest."""
        arrivals = Arrivals(self, self._next(), children)
        self._branches.append(arrivals)
        return arrivals

    async def compute(
        self, function: Callable[..., T], *arguments: Any, seconds: float = 10.0, otherwise: T | None = None
    ) -> T | None:
        """`function(*arguments)` in another process; `otherwise` where it does not end in `seconds`.

        The value comes back as JSON would carry it: tuples are lists.
        """
        key, job = self._next(), self._job
        request = digest("\x00".join(getattr(each, "__qualname__", repr(each)) for each in (function, *arguments)))
        computed = job.log.computed(key, request)
        if computed is None:
            job.go_live()
            value, timed_out = await value_of(function, arguments, seconds)
            computed = Computed(key=key, request=request, value=value, timed_out=timed_out, at=job.elapsed())
            await job.log.append(computed)
        return otherwise if computed.timed_out else computed.value

    def delegate(self, strategy: Strategy, problem: Problem) -> AsyncGenerator[Answer, None]:
        """Another strategy's answers, bought with this Run's permission. Closed with the Run at the latest."""
        self._job.check(strategy, problem)
        answers = strategy.search(problem, self._within(f"{self._next()}/"))
        self._branches.append(answers)
        return answers

    async def close(self) -> None:
        """End every branch that is still open, and wait for it."""
        for branch in reversed(self._branches):
            await branch.aclose()

    def _next(self) -> str:
        if asyncio.current_task() is not self._task:
            raise RunError("a Run belongs to the task it was given to; branch with gather or arrivals")
        if self._job.over:
            raise RunError("the job has ended; nothing can be bought any more")
        key = f"{self._prefix}{self._calls}"
        self._calls += 1
        return key

    def _within(self, prefix: str) -> Run:
        """A Run for the same task, whose outcomes this one sees too."""
        return _Shared(self, prefix)

    async def _branch(self, prefix: str, child: Child, halt: Halt) -> tuple[Any, Remaining]:
        """A child's result, and what remained when it was done."""
        run = Run(self._job, prefix, halt, self._seen)
        try:
            return await child(run), run.remaining
        finally:
            await run.close()

    def _see(self, *views: Remaining) -> None:
        """What remains only shrinks, so the least of several views is the latest."""
        views = (self._seen, *views)
        self._seen = Remaining(
            tokens=_least(view.tokens for view in views),
            seconds=_least(view.seconds for view in views),
            usd=_least(view.usd for view in views),
            flops=_least(view.flops for view in views),
        )

    async def _bought(self, wishes: Sequence[Wish | Look]) -> list[Settled]:
        settled = await all_of(outcome(self._job, self._halt, wish) for wish in wishes)
        self._see(*(each.remaining for each in settled if each.remaining))
        return settled

    def _arrive(self, wish: Wish, outcome: Settled) -> Path:
        path = wish.path.extend(Completion.joined(outcome.segments), outcome.key)
        if wish.role == "policy":
            self._job.consider(path)
        return path


class _Shared(Run):
    """A Run with keys and randomness of its own inside its parent's task: what one sees, the other has seen."""

    def __init__(self, parent: Run, prefix: str) -> None:
        super().__init__(parent._job, prefix, parent._halt, parent._seen)
        self._parent = parent
        parent._branches.append(cast(Any, self))

    def _see(self, *views: Remaining) -> None:
        super()._see(*views)
        self._parent._see(self._seen)

    async def aclose(self) -> None:
        await self.close()


class Arrivals:
    """The results of several children in the order in which they come, which the journal remembers."""

    def __init__(self, run: Run, key: str, children: Sequence[Child]) -> None:
        self._run, self._key, self._log = run, key, run._job.log
        self._halt = Halt(run._halt)
        self._recorded = deque(self._log.arrived(key))
        self._done: asyncio.Queue[int] = asyncio.Queue()
        self._delivered: set[int] = set()
        self._tasks = [
            asyncio.create_task(run._branch(f"{key}/{i}/", child, self._halt)) for i, child in enumerate(children)
        ]
        for i, task in enumerate(self._tasks):
            task.add_done_callback(partial(self._ended, i))

    def _ended(self, child: int, _: object) -> None:
        self._done.put_nowait(child)

    def stop(self) -> None:
        """Enough: calls in flight return what they have, and iteration ends."""
        self._halt.set("stopped")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._halt.reason == "stopped" or len(self._delivered) == len(self._tasks):
            await self.aclose()
            raise StopAsyncIteration
        child = await self._next_child()
        self._delivered.add(child)
        value, remaining = await self._tasks[child]
        self._run._see(remaining)
        return value

    async def _next_child(self) -> int:
        if self._recorded:
            child = self._recorded.popleft()
            await asyncio.wait([self._tasks[child]])
            return child
        child = await self._done.get()
        while child in self._delivered:
            child = await self._done.get()
        self._run._job.go_live()
        await self._log.append(Arrived(key=self._key, child=child, at=self._run._job.elapsed()))
        return child

    async def aclose(self) -> None:
        """Stop the children that are left, and wait until none of them runs."""
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for task in self._tasks:
            if not task.cancelled():
                task.exception()
        self._halt.close()


async def all_of(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run them all at once. When one raises, the others are cancelled and awaited before it is raised on."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        raise


def _least(values: Iterable[N | None]) -> N | None:
    known = [value for value in values if value is not None]
    return min(known) if known else None
