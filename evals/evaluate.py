"""Run methods at budgets over a suite: one row per problem as it finishes, nothing done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path as File

from evals.plan import Method, Plan
from evals.pool import Pool
from evals.records import ROWS, SAMPLES, Cell, Row, Sample, Settings, claim_folder, key_of
from evals.suites import SUITES, Item, Suite
from tts.backends.base import Backend, gone, is_virtual
from tts.compute import in_process
from tts.cost import Prices
from tts.errors import BackendError, NoSamples, PromptTooLong, TTSError, UsageError
from tts.lines import Lines
from tts.run import all_of
from tts.solve import solve
from tts.strategy import Strategy
from tts.trace import idle
from tts.types import Completion, Result, number

GRADING_SECONDS = 10.0
ENOUGH = 3
"""Problems that may fail one after the other, because nobody answers, until the rest is not tried."""


async def evaluate(
    plan: Plan,
    backend: Backend,
    settings: Settings,
    prices: Prices,
    folder: File,
    observe: Callable[[Row, bool], None],
) -> list[Row]:
    """Solve what no row in `folder` tells about yet; every row of the plan, in the plan's order.

    A problem that failed is tried again by the next run; its latest row counts. `observe` sees every row, and whether
    it is new. Raises `BackendError`, with what was done kept, when a model is gone for good.
    """
    claim_folder(folder, settings)
    with Lines(folder / ROWS, Row) as rows, Lines(folder / SAMPLES, Sample) as samples:
        run = _Evaluation(plan, backend, settings, prices, rows, samples, observe)
        await run.all()
        return run.in_order()


class _Evaluation:
    def __init__(
        self,
        plan: Plan,
        backend: Backend,
        settings: Settings,
        prices: Prices,
        rows: Lines[Row],
        samples: Lines[Sample],
        observe: Callable[[Row, bool], None],
    ) -> None:
        self._plan, self._backend, self._settings, self._prices = plan, backend, settings, prices
        self._rows, self._samples, self._observe = rows, samples, observe
        self._done = {key_of(row): row for row in rows.read() if row.error is None}
        self._drawn: dict[tuple[str, int], dict[int, Completion]] = {}
        for sample in samples.read():
            self._drawn.setdefault((sample.problem, sample.seed), {})[sample.number] = sample.completion
        self._places = asyncio.Semaphore(plan.concurrency)
        self._lost: set[str] = set()

    async def all(self) -> None:
        wanted = [(item, seed) for seed in self._plan.seeds for item in self._plan.items]
        for row in self.in_order():
            self._observe(row, False)
        await all_of(self._unit(item, seed) for item, seed in wanted)

    def in_order(self) -> list[Row]:
        keys = (
            (cell, seed, item.problem.id)
            for _, cell in self._plan.cells()
            for seed in self._plan.seeds
            for item in self._plan.items
        )
        return [self._done[key] for key in keys if key in self._done]

    async def _unit(self, item: Item, seed: int) -> None:
        """All cells of one problem and seed, one after the other, over one pool of samples."""
        todo = [(m, cell) for m, cell in self._plan.cells() if (cell, seed, item.problem.id) not in self._done]
        if not todo:
            return
        async with self._places:
            backend = self._pool(item, seed, todo)
            for method, cell in todo:
                row = await self._row(item, seed, method, cell, backend)
                self._rows.append(row)
                self._done[key_of(row)] = row
                self._observe(row, True)
                self._check_there(row, method)

    def _check_there(self, row: Row, method: Method) -> None:
        """Give up when so many problems have failed one after the other because of a model that is gone."""
        absent = next(filter(None, map(gone, (self._backend, *method.models.values()))), None)
        self._lost = self._lost | {row.problem} if row.error and absent else set()
        if absent and len(self._lost) >= ENOUGH:
            raise BackendError(
                f"{absent}; {len(self._lost)} problems failed one after the other, so the rest is not tried: the rows "
                "so far are kept, and the same command goes on from there"
            )

    def _pool(self, item: Item, seed: int, todo: Iterable[tuple[Method, Cell]]) -> Backend:
        if any(cell.unit == "seconds" for _, cell in todo) or is_virtual(self._backend):
            return self._backend  # what costs time must take time; and recorded samples are shared already
        sizes = [getattr(self._strategy(m, cell), "n", 1) for m, cell in todo]

        async def record(place: int, completion: Completion) -> None:
            answer = item.problem.kind.extract(completion.text, completion.finish == "stop")
            try:
                right = answer is not None and await self._right(item, answer)
            except TimeoutError:
                right = False  # the row of whoever chooses this answer says why
            sample = Sample(
                problem=item.problem.id,
                seed=seed,
                number=place,
                group=item.group,
                answer=answer,
                right=right,
                completion=completion,
            )
            self._samples.append(sample)

        known = self._drawn.get((item.problem.id, seed), {})
        return Pool(self._backend, job_seed(item, seed), max(sizes), known, record)

    def _strategy(self, method: Method, cell: Cell) -> Strategy:
        return method.at(cell, self._backend.info.parameters, self._settings.sampling.max_tokens)

    async def _row(self, item: Item, seed: int, method: Method, cell: Cell, backend: Backend) -> Row:
        try:
            result = await solve(
                item.problem,
                self._strategy(method, cell),
                {"policy": backend, **method.models},
                budget=cell.budget(self._settings.sampling),
                scorer=method.verifier,
                sampling=self._settings.sampling,
                prices=self._prices,
                seed=job_seed(item, seed),
                runner=self._plan.runner,
            )
            if absent := _unscored(method, result):
                return _row(item, seed, cell, result, error=absent)
            return await self._graded(item, seed, cell, result)
        except NoSamples as error:
            return _row(item, seed, cell, error.result, error=str(error))
        except PromptTooLong as error:
            return _row(item, seed, cell, None, error=str(error))
        except UsageError:
            raise
        except TTSError as error:
            return _row(item, seed, cell, None, error=str(error))

    async def _graded(self, item: Item, seed: int, cell: Cell, result: Result) -> Row:
        answer = result.answer
        stated = [answer.text] if answer and answer.extracted else []
        others = [vote.answer for vote in answer.votes] if answer else []
        try:
            verdicts = {text: await self._right(item, text) for text in dict.fromkeys([*stated, *others])}
        except TimeoutError:
            error = f"the grader took more than {GRADING_SECONDS:g} s"
            return _row(item, seed, cell, result, error=error)
        return _row(
            item,
            seed,
            cell,
            result,
            answer=stated[0] if stated else None,
            right=bool(stated) and verdicts[stated[0]],
            covered=any(verdicts.values()),
        )

    async def _right(self, item: Item, answer: str) -> bool:
        return await graded(self._plan.suite, item, answer)


_VERDICTS: dict[tuple[str, str, str], bool] = {}


async def graded(suite: Suite, item: Item, answer: str) -> bool:
    """Whether an answer solves a problem. Raises `TimeoutError` where the grader does not come to an end."""
    if suite.quick:
        return suite.right(item, answer)
    key = (suite.name, item.reference, answer)
    if key not in _VERDICTS:
        _VERDICTS[key] = await in_process(right, suite.name, item, answer, seconds=GRADING_SECONDS)
    return _VERDICTS[key]


def right(suite: str, item: Item, answer: str) -> bool:
    """A suite's grader by its name, which is all that has to travel to another process."""
    return SUITES[suite].right(item, answer)


def _unscored(method: Method, result: Result) -> str | None:
    """Why a method is not to be judged by this: a model that it asks beside the policy failed it, and is gone."""
    failed = {call.role for call in result.trace.calls if call.outcome == "failed"}
    reasons = [gone(model) for role, model in method.models.items() if role in failed]
    return next(filter(None, reasons), None)


def job_seed(item: Item, seed: int) -> int:
    """Problems draw independently of each other, methods of one problem do not."""
    return number(f"{seed}/{item.problem.id}")


def _row(
    item: Item,
    seed: int,
    cell: Cell,
    result: Result | None,
    *,
    answer: str | None = None,
    right: bool = False,
    covered: bool = False,
    error: str | None = None,
) -> Row:
    usages = list(result.usage.values()) if result else []
    policy = [usage for role, usage in result.usage.items() if role == "policy"] if result else []
    others = [usage for role, usage in result.usage.items() if role != "policy"] if result else []
    return Row(
        cell=cell,
        seed=seed,
        problem=item.problem.id,
        group=item.group,
        right=right,
        covered=covered,
        answer=answer,
        error=error,
        stop=result.stop if result else "failed",
        tokens=result.bill.tokens if result else 0,
        prompt_tokens=sum(usage.prompt_tokens for usage in policy),
        cached_tokens=sum(usage.cached_tokens for usage in policy),
        verifier_tokens=sum(usage.prompt_tokens + usage.completion_tokens for usage in others),
        seconds=sum(usage.seconds for usage in usages),
        usd=result.bill.usd if result else None,
        flops=result.bill.flops if result else 0.0,
        kv_token_steps=result.trace.kv_token_steps if result else 0,
        selections=len(result.trace.selections) if result else 0,
        resident=sum(each.before for each in result.trace.selections) if result else 0,
        kept=sum(each.after for each in result.trace.selections) if result else 0,
        idle=idle(result.trace) if result else 0.0,
        finished=result.samples.finished if result else 0,
        truncated=result.samples.truncated if result else 0,
        failed=result.samples.failed if result else 0,
    )
