"""One problem, one strategy, one budget: the best answer the budget can buy, with an exact bill."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import cast

from tts.answers import Runner
from tts.backends.base import CHECKPOINT, Aborter, Backend, dies_with_us
from tts.cost import Prices, Tariff
from tts.errors import JournalMismatch, NoSamples, PromptTooLong, Suspended, UsageError, counted
from tts.halt import Halt
from tts.job import Job, stop_of
from tts.journal import Ended, Header, Held, Journal, Log, MemoryJournal, Named, Record, Settled
from tts.ledger import Ledger
from tts.run import Run
from tts.selection import ballots, best, elect, sizes, tally, unextracted
from tts.strategy import Strategy, Verifier
from tts.trace import FINISHER, Books
from tts.types import (
    FINISHER_TOKENS,
    Answer,
    Bill,
    Budget,
    Completion,
    Message,
    Path,
    Problem,
    Result,
    Role,
    Sampling,
    Stop,
    Usage,
)

_CLOSING = {"{": ("}",), "(": (")",)}
PATIENCE = 0.05
"""Seconds a strategy has, once its calls have come back, to yield what it knows after a halt."""
REPLAY_PATIENCE = 5.0
"""Seconds after which a replayed strategy that had to be cancelled the first time is cancelled again."""


async def solve(
    problem: Problem,
    strategy: Strategy,
    models: Mapping[Role, Backend],
    *,
    budget: Budget,
    scorer: Verifier | None = None,
    sampling: Sampling | None = None,
    prices: Prices | None = None,
    seed: int = 0,
    journal: Journal | None = None,
    observe: Callable[[Record], None] | None = None,
    halt: Halt | None = None,
    runner: Runner | None = None,
    job: str | None = None,
) -> Result:
    """Search for an answer to `problem` within `budget`; nothing runs any more when this returns.

    `models` maps roles to backends and has at least `policy`. A `journal` that holds this job's records
    resumes it: what was settled is not paid again. `observe` sees every new record. Setting `halt` ends the
    search early and keeps the best answer. `runner` is the sandbox for answers that are programs. `job` is what engines
    know the job by: as long as every other such name, and unique; one is made up where none is given.

    Raises `UsageError` for what cannot be done, `NoSamples` when every model call failed, `Suspended` where `halt` was
    set to "suspended": then the journal has all that was bought, and whoever calls this with it goes on.
    """
    name, drawn = job or secrets.token_hex(6), sampling or Sampling()
    header = _header(name, problem, strategy, models, budget, scorer, drawn, prices or {}, seed, runner)
    _check_prices(header)
    book = journal or MemoryJournal()
    records = await book.read()
    books = Books()
    log = await _open(book, records, header, books, observe, models)
    whole = _job(log, header if not records else cast(Header, records[0]), books, models, scorer, runner, halt)
    whole.check(strategy, problem)
    _check_prompt(problem, models["policy"])
    try:
        if records and not header.same_version(whole.header):
            return await _salvage(whole, records)
        return await _searched(whole, strategy)
    finally:
        whole.end()


async def _searched(job: Job, strategy: Strategy) -> Result:
    search = _Search(job, strategy)
    if not job.log.replaying:
        job.go_live()
    await search.to_its_end()
    if job.halt.reason == "suspended":
        raise Suspended("the job was suspended; its journal goes on")
    answer, notes, forced = search.answer, [], job.header.problem.kind.forced
    if (answer is None or not answer.extracted) if forced else answer is None:
        found, note = await _finish(job) if forced else _cut_off(job)
        answer = found or answer
        notes.append(note)
    if search.cut_short:
        notes.append("the strategy did not end by itself after the halt and was cancelled; its last answer stands")
    return await _end(job, answer, notes, search.cut_short)


@dataclass
class _Search:
    """A strategy's search, ended by itself or, too long after a halt, by cancellation."""

    job: Job
    strategy: Strategy
    answer: Answer | None = None
    cut_short: bool = False

    async def to_its_end(self) -> None:
        task = asyncio.create_task(self._search())
        loop = asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []
        leave = self.job.halt.subscribe(lambda: timers.append(loop.call_later(_patience(self.job), self._cut, task)))
        if self.job.log.ended is not None and self.job.log.ended.cut_short:
            timers.append(loop.call_later(REPLAY_PATIENCE, self._cut, task))
        try:
            await asyncio.wait([task])
        finally:
            leave()
            for timer in timers:
                timer.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    def _cut(self, task: asyncio.Task[None]) -> None:
        self.cut_short = True
        self.job.let_go.set()
        task.cancel()

    async def _search(self) -> None:
        run = Run(self.job, "", self.job.halt, self.job.at_first())
        try:
            async with aclosing(self.strategy.search(self.job.header.problem, run)) as answers:
                async for answer in answers:
                    self.answer = answer
        finally:
            await run.close()


def _patience(job: Job) -> float:
    """Seconds after a halt in which calls come back and a strategy yields what it knows."""
    return max(backend.info.grace for backend in job.models.values()) + PATIENCE


def _cut_off(job: Job) -> tuple[Answer | None, str]:
    """The text that came farthest, as it is; none where all of it is thought."""
    path, after = job.best, job.header.problem.kind.after
    said = path.text if path else ""
    said = (said.rpartition(after)[2] if after in said else "") if after else said
    if path is None or not said.strip():
        return None, f"the search ended without an answer ({_stop(job)})"
    cut = path if path.finish else path.model_copy(update={"finish": "length"})
    answer = Answer(text=said.strip(), path=cut, extracted=False, support=0.0, chosen="cut off")
    return answer, "no sample came to its end; the text that came farthest is returned as it is"


async def _finish(job: Job) -> tuple[Answer | None, str]:
    """Force an answer from the best path with the reserve; or say why not."""
    backend, kind = job.models["policy"], job.header.problem.kind
    if "continue" not in backend.info.capabilities:
        return None, f"no answer was forced: {backend.info.name} cannot continue a text"
    job.ledger.release_reserve()
    run = Run(job, FINISHER, job.halt, job.remaining())
    broken_off = job.best or Path.of(job.header.problem)
    path = broken_off.append(kind.ending(broken_off.text))
    ending = _CLOSING.get(kind.finisher[-1:], ())
    greedy = Sampling(temperature=0.0, max_tokens=FINISHER_TOKENS, stop=ending)
    # After a halt this call is refused like any other: the journal knows, and a replay needs to be told the same.
    loop = asyncio.get_running_loop()
    job.halt.subscribe(lambda: loop.call_later(_patience(job), job.let_go.set))
    for forced in await run.sample([path], sampling=greedy):
        forced_text, stated = (step.text for step in forced.steps[-2:])
        if ending and ending[0] not in stated:
            continue  # the bracket was never closed: digits may be missing
        answer = kind.extract(forced_text + stated, forced.finished)
        if answer is not None:
            return (
                Answer(text=answer, path=forced, extracted=True, support=0.0, chosen="forced at the end"),
                "the search ended without an answer; one was forced from its best path",
            )
    return None, f"the search ended without an answer ({_stop(job)}), and none could be forced"


async def _end(job: Job, answer: Answer | None, notes: list[str], cut_short: bool) -> Result:
    """The result, after the last record is written."""
    if job.log.ended is None:
        job.go_live()
        job.log.ended = Ended(stop=_stop(job), cut_short=cut_short, at=job.elapsed())
        await job.log.append(job.log.ended)
    result = _result(job, answer, job.log.ended, notes)
    if answer is None and job.books.errors and not job.books.finished + job.books.truncated:
        first = next(iter(job.books.errors.values()))[0]
        raise NoSamples(f"every model call failed: {first}", result)
    return result


def _result(job: Job, answer: Answer | None, ended: Ended, notes: list[str]) -> Result:
    spent = job.books.spent
    unpriced = sorted({tariff.model.name for tariff in job.tariffs.values() if tariff.price is None})
    failures = [_failure(job, role) for role in job.books.errors]
    if uncertain := job.books.uncertain:
        failures.append(
            f"up to {counted(uncertain, 'token')} may have been generated by servers that failed; not billed"
        )
    return Result(
        answer=answer,
        stop=ended.stop,
        usage=job.books.usage,
        bill=Bill(
            tokens=int(spent.tokens),
            lost=job.books.lost,
            seconds=ended.at,
            usd=None if unpriced else spent.usd,
            flops=spent.flops,
            unpriced=tuple(unpriced),
        ),
        samples=job.books.samples,
        confidence=None,
        notes=(*notes, *failures, *_unseen(job)),
        trace=job.books.trace,
    )


def _unseen(job: Job) -> Iterator[str]:
    """What should have been seen in samples, and was in none."""
    books, problem = job.books, job.header.problem
    if not books.finished + books.truncated:
        return
    if problem.kind.after and not books.thought:
        yield (
            f"no sample ended its thinking with {problem.kind.after!r}: give more --max-tokens, or choose a mode that "
            "does not think; where the model ends it otherwise, say so in think_end of its profile"
        )
    if job.stepwise and not books.stepped:
        yield (
            f"no step ended with {problem.step_end!r}, so whole samples were compared; name what ends one with "
            "--step-end, or step_end of its profile"
        )


def _failure(job: Job, role: Role) -> str:
    """How many calls of a model failed, what the first of them said, and what is missing because of it."""
    errors, missing = job.books.errors[role], ""
    if job.scorer is not None and job.scorer.reads == role:
        missing = f", so {'some of ' if role in job.books.answered else ''}its scores are missing"
    return f"{counted(len(errors), 'call')} of the {role} failed{missing}: {errors[0]}"


def _stop(job: Job) -> Stop:
    return stop_of({*job.books.reasons, job.halt.reason})


def _header(
    job: str,
    problem: Problem,
    strategy: Strategy,
    models: Mapping[Role, Backend],
    budget: Budget,
    scorer: Verifier | None,
    sampling: Sampling,
    prices: Prices,
    seed: int,
    runner: Runner | None,
) -> Header:
    if "policy" not in models:
        raise UsageError("models must name the 'policy' that generates")
    return Header(
        code=code_version(),
        job=job,
        problem=problem,
        strategy=_named(strategy),
        scorer=None if scorer is None else _named(scorer),
        budget=budget,
        sampling=sampling,
        seed=seed,
        models={role: backend.info for role, backend in models.items()},
        prices={info.name: prices[info.name] for info in (m.info for m in models.values()) if info.name in prices},
        runner=None if runner is None else str(getattr(runner, "__qualname__", repr(runner))),
    )


def _named(part: Strategy | Verifier) -> Named:
    return Named(name=part.name, version=part.version, parameters=part.model_dump(mode="json"))


@cache
def code_version() -> str:
    """The version of this distribution."""
    try:
        return version("test-time-scaling")
    except PackageNotFoundError:
        return "unknown"


def _check_prices(header: Header) -> None:
    unpriced = sorted({info.name for info in header.models.values()} - header.prices.keys())
    if header.budget.usd is not None and unpriced:
        raise UsageError(f"a budget in dollars needs a price for {', '.join(unpriced)}; add it to the price table")


def _check_prompt(problem: Problem, policy: Backend) -> None:
    length, context = policy.prompt_tokens(Path.of(problem)), policy.info.context
    if length >= context:
        raise PromptTooLong(
            f"the prompt has {length} tokens and {policy.info.name} reads {context}; "
            f"shorten it by {length - context + 1} tokens"
        )


async def _open(
    journal: Journal,
    records: list[Record],
    header: Header,
    books: Books,
    observe: Callable[[Record], None] | None,
    models: Mapping[Role, Backend],
) -> Log:
    """The log of this job; what was in flight when an earlier process died is ended, and booked as lost but for what
    was checkpointed of it."""

    def witness(record: Record) -> None:
        books.add(record)
        if observe is not None:
            observe(record)

    for record in records:
        books.add(record)
    log = Log(journal, records, witness)
    if not records:
        await log.append(header)
        return log
    _check_same_job(records[0], header)
    in_flight = log.in_flight()
    await asyncio.gather(*(_abort(models[held.role], held) for held in in_flight))
    for held in in_flight:
        tariff = Tariff(models[held.role].info, header.prices.get(models[held.role].info.name))
        most = CHECKPOINT if dies_with_us(models[held.role]) else held.granted
        await log.lose(_lost(held, log.begun(held.key), tariff, most, log.elapsed))
    return log


async def _abort(backend: Backend, held: Held) -> None:
    """Have an engine that outlived its caller let go."""
    if isinstance(backend, Aborter):
        await backend.abort(held.id)


def _lost(held: Held, begun: tuple[Completion, ...], tariff: Tariff, most: int, elapsed: float) -> Settled:
    """The settlement of a call whose process died, of which at most so many tokens came after the last checkpoint."""
    made = sum(piece.usage.completion_tokens for piece in begun)
    unknown = min(most, held.granted - made)
    surplus = tariff.spend(Usage.of(prompt=0, cached=0, completion=held.granted - made - unknown, seconds=0.0))
    spend = held.most.minus(surplus)
    return Settled(
        key=held.key,
        role=held.role,
        request=held.request,
        outcome="lost",
        reason=None,
        error=None,
        segments=begun,
        spend=spend,
        remaining=None,
        at=elapsed,
    )


def _check_same_job(first: Record, header: Header) -> None:
    if not isinstance(first, Header):
        raise JournalMismatch("this is not a journal: its first record is no header")
    differs = first.same_job(header)
    if differs:
        raise JournalMismatch(f"this journal belongs to another job: its {differs} differs; name another file")


def _job(
    log: Log,
    header: Header,
    books: Books,
    models: Mapping[Role, Backend],
    scorer: Verifier | None,
    runner: Runner | None,
    halt: Halt | None,
) -> Job:
    return Job(
        header=header,
        models=models,
        tariffs={role: Tariff(model.info, header.prices.get(model.info.name)) for role, model in models.items()},
        scorer=scorer,
        runner=runner,
        ledger=Ledger(header.budget.limit, books.spent, header.budget.reserve),
        log=log,
        books=books,
        halt=Halt(halt),
    )


async def _salvage(job: Job, records: list[Record]) -> Result:
    """Finish a job of another version from the candidates it had, without replaying or buying anything."""
    found = candidates(job.header.problem, records)
    run = Run(job, "salvage/", job.halt, job.remaining())
    kind = job.header.problem.kind
    cast = ballots(kind, found)
    groups = await tally(kind, cast, run) if kind.votes else []
    answer = elect(groups, sizes(groups), "majority")
    note = f"finished from {len(found)} candidates recorded by version {job.header.code}; nothing was replayed"
    return await _end(job, answer or best(kind, cast) or unextracted(found), [note], False)


def candidates(problem: Problem, records: list[Record]) -> list[Path]:
    """Every path to the problem that the policy brought to an end, put together from the journal."""
    holds = {r.key: r for r in records if isinstance(r, Held)}
    bought = {r.key: r for r in records if isinstance(r, Settled) and r.segments}
    start = Path.of(problem).origin

    def path_to(key: str) -> Path:
        held, settled = holds[key], bought[key]
        base = path_to(held.parent) if held.parent else Path(start=problem.messages)
        return (base.append(held.forced) if held.forced else base).extend(settled.segments[-1], key)

    paths = [path_to(key) for key, r in bought.items() if r.role == "policy" and holds[key].start == start]
    return [path for path in paths if path.finish is not None]


__all__ = ["Message", "code_version", "solve"]
