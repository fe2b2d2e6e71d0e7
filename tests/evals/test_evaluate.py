"""The harness on a fake model: what is drawn, shared, resumed, graded and listed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evals import evaluate as harness
from evals.evaluate import evaluate
from evals.plan import Method, Plan
from evals.records import ROWS, SAMPLES, Row, Sample, Settings, Unit
from evals.suites import Row as Given
from evals.suites import Suite
from evals.suites.base import Item, same_answer
from strategies import BestOfN, SelfConsistency, Single
from tests.fakes import thinker
from tts.answers import Maths
from tts.backends.base import Reading, Request
from tts.backends.fake import FakeBackend, Opinion, Reply
from tts.clock import run_virtual
from tts.errors import BackendError, UsageError
from tts.lines import read_lines
from tts.types import Completion, Sampling, Sheet, Usage, Verdicts
from tts.types import Path as Search
from verifiers import Confidence, Judge

SAMPLING = Sampling(max_tokens=48)
LOOKED = (-0.1, -2.0)
"""What a judge says of Yes and No."""


def toy(right: Callable[[Item, str], bool] = same_answer, quick: bool = True) -> Suite:
    def rows(_: object) -> list[Given]:
        return [Given(id=f"p{i}", problem=f"{i}: six times seven?", answer="42", group=f"g{i % 2}") for i in range(6)]

    return Suite(name="chain", about="", kind=Maths(), rows=rows, right=right, quick=quick)


Observer = Callable[[Row, bool], None]


def method(strategy: Any) -> Method:
    return Method(label=strategy.name, strategy=strategy, verifier=Confidence(), fixed="n" in strategy.model_fields_set)


def planned(
    *strategies: Any,
    suite: Suite | None = None,
    budgets: Sequence[tuple[Unit, float]] = (("tokens", 400.0),),
    seeds: int = 1,
) -> Plan:
    suite = suite or toy()
    methods = [method(strategy) for strategy in strategies or (SelfConsistency(),)]
    return Plan(suite, suite.items("test", None), methods, budgets, range(seeds), 4)


def run(plan: Plan, folder: Path, backend: FakeBackend | None = None, observe: Observer | None = None) -> list[Row]:
    backend = backend or FakeBackend(thinker)
    settings = Settings(suite="chain", split="test", data=None, model=backend.info, sampling=SAMPLING, code="1")
    return run_virtual(evaluate(plan, backend, settings, {}, folder, observe or (lambda row, new: None)))


def test_every_problem_gets_a_row_in_every_cell_and_pays_for_it(tmp_path: Path) -> None:
    plan = planned(BestOfN(), SelfConsistency(), budgets=[("tokens", 100.0), ("tokens", 400.0)], seeds=2)
    rows = run(plan, tmp_path)
    assert len(rows) == plan.size == 6 * 2 * 2 * 2
    assert all(0 < row.tokens <= row.cell.amount for row in rows)
    assert {row.group for row in rows} == {"g0", "g1"}
    assert sorted(map(str, read_lines(tmp_path / ROWS, Row))) == sorted(map(str, rows))
    assert all(row.covered for row in rows if row.right)
    assert 0.3 < sum(row.right for row in rows) / len(rows) < 1.0


def test_methods_that_draw_independent_samples_share_them(tmp_path: Path) -> None:
    alone, both = FakeBackend(thinker), FakeBackend(thinker)
    run(planned(SelfConsistency(n=8)), tmp_path / "1", alone)
    rows = run(planned(SelfConsistency(n=8), BestOfN(n=8), Single()), tmp_path / "2", both)
    assert both.calls == alone.calls
    costs = {(row.cell.method, row.problem): (row.tokens, row.prompt_tokens) for row in rows}
    assert all(costs["best_of_n", p] == costs["self_consistency", p] for _, p in costs)


class Caching(FakeBackend):
    """Reads a job's prompt once, and cuts nothing."""

    def __init__(self) -> None:
        super().__init__(thinker)
        self.known: set[tuple[str, Search]] = set()

    async def generate(self, request: Request) -> Completion:
        completion = await super().generate(request)
        key = (request.job, request.path)
        cached = request.prompt_tokens if key in self.known else 0
        self.known.add(key)
        usage = completion.usage.model_copy(update={"cached_tokens": cached})
        return completion.model_copy(update={"usage": usage})


def test_what_a_method_costs_does_not_depend_on_who_drew_its_samples(tmp_path: Path) -> None:
    budgets: list[tuple[Unit, float]] = [("tokens", 60.0), ("tokens", 150.0), ("tokens", 600.0)]
    alone = run(planned(SelfConsistency(n=64), budgets=budgets), tmp_path / "1", Caching())
    after = run(planned(BestOfN(n=64), SelfConsistency(n=64), budgets=budgets), tmp_path / "2", Caching())
    costs = {(row.cell, row.problem): (row.flops, row.cached_tokens) for row in after}
    assert all(costs[row.cell, row.problem] == (row.flops, row.cached_tokens) for row in alone)
    sampled = [row for row in after if row.cell.amount == 600]
    assert all(row.cached_tokens > 0 for row in sampled)


def test_a_smaller_budget_is_given_a_shared_sample_only_where_it_pays_for_all_of_it(tmp_path: Path) -> None:
    budgets: list[tuple[Unit, float]] = [("tokens", 60.0), ("tokens", 600.0)]
    rows = run(planned(budgets=budgets), tmp_path)
    assert all(row.tokens <= row.cell.amount for row in rows)
    drawn = read_lines(tmp_path / SAMPLES, Sample)
    assert {sample.completion.finish for sample in drawn} == {"stop"}
    assert len({(s.problem, s.seed, s.number) for s in drawn}) == len(drawn)


def test_problems_and_seeds_draw_different_samples(tmp_path: Path) -> None:
    run(planned(SelfConsistency(n=4), seeds=2), tmp_path)
    texts: dict[tuple[str, int], list[str]] = {}
    for sample in read_lines(tmp_path / SAMPLES, Sample):
        texts.setdefault((sample.problem, sample.seed), []).append(sample.completion.text)
    assert len(texts) == 12
    assert len({tuple(sorted(each)) for each in texts.values()}) == 12


def test_a_killed_run_goes_on_where_it_was_and_repeats_nothing(tmp_path: Path) -> None:
    plan, whole = planned(BestOfN(), SelfConsistency()), run(planned(BestOfN(), SelfConsistency()), tmp_path / "whole")
    interrupted = tmp_path / "killed"

    class Killed(BaseException):
        pass

    seen: list[Row] = []

    def die(row: Row, new: bool) -> None:
        assert new
        seen.append(row)
        if len(seen) == 5:
            raise Killed

    backend = FakeBackend(thinker)
    settings = Settings(suite="chain", split="test", data=None, model=backend.info, sampling=SAMPLING, code="1")
    with pytest.raises(Killed):
        run_virtual(evaluate(plan, backend, settings, {}, interrupted, die))
    with (interrupted / ROWS).open("ab") as torn:
        torn.write(b'{"cell":{"method":"be')
    kept, drawn = len(read_lines(interrupted / ROWS, Row)), len(read_lines(interrupted / SAMPLES, Sample))
    assert 5 <= kept < plan.size
    again = FakeBackend(thinker)
    resumed = run(plan, interrupted, again)
    timed = {"seconds", "idle"}  # what was drawn before comes at once
    assert [row.model_dump(exclude=timed) for row in resumed] == [row.model_dump(exclude=timed) for row in whole]
    assert len(read_lines(interrupted / ROWS, Row)) == plan.size
    assert again.calls < FakeBackend(thinker).calls + backend.calls + drawn
    idle = FakeBackend(thinker)
    told: list[bool] = []
    run(plan, interrupted, idle, lambda row, new: told.append(new))
    assert idle.calls == 0
    assert told == [False] * plan.size  # progress counts what was there already, and says so


def test_more_seeds_methods_and_budgets_can_be_added_later(tmp_path: Path) -> None:
    run(planned(), tmp_path)
    backend = FakeBackend(thinker)
    rows = run(planned(SelfConsistency(), BestOfN(), seeds=2), tmp_path, backend)
    assert len(rows) == 6 * 2 * 2
    assert len(read_lines(tmp_path / ROWS, Row)) == 6 * 2 * 2


def test_a_problem_that_errored_counts_as_wrong_is_listed_and_tried_again(tmp_path: Path) -> None:
    def fails_on_two(request: Request) -> Reply:
        text = request.path.start[0].content  # type: ignore[union-attr]
        return Reply("", error="overloaded") if text.startswith("2:") else thinker(request)

    rows = run(planned(), tmp_path, FakeBackend(fails_on_two))
    (bad,) = [row for row in rows if row.error]
    assert (bad.problem, bad.right, bad.answer) == ("p2", False, None)
    assert "overloaded" in (bad.error or "")
    healed = run(planned(), tmp_path)
    assert len(healed) == 6
    assert not any(row.error for row in healed)


def test_a_prompt_that_does_not_fit_is_one_problems_error_and_a_strategy_that_cannot_run_is_everybodys(
    tmp_path: Path,
) -> None:
    info = FakeBackend(thinker).info.model_copy(update={"context": 10})
    rows = run(planned(), tmp_path / "1", FakeBackend(thinker, info))
    assert all("shorten it" in (row.error or "") for row in rows)
    blind = FakeBackend(thinker).info.model_copy(update={"capabilities": frozenset()})
    with pytest.raises(UsageError, match="needs logprobs"):
        run(planned(BestOfN()), tmp_path / "2", FakeBackend(thinker, blind))


def hangs(item: Item, answer: str) -> bool:
    while answer == "42":
        pass
    return False


def test_a_grader_that_hangs_is_killed_and_its_problem_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "GRADING_SECONDS", 1.0)
    monkeypatch.setattr(harness, "right", hangs_by_name)
    suite = toy(hangs, quick=False)
    plan = Plan(suite, suite.items("test", 1), [method(SelfConsistency(n=4))], [("tokens", 400.0)], [0], 1)
    (row,) = run(plan, tmp_path)
    assert row.error == "the grader took more than 1 s"
    assert not row.right


def hangs_by_name(suite: str, item: Item, answer: str) -> bool:
    return hangs(item, answer)


def test_a_slow_grader_works_in_another_process_with_the_suites_own_idea_of_right(tmp_path: Path) -> None:
    suite = toy(quick=False)
    rows = run(planned(SelfConsistency(n=4), suite=suite), tmp_path)
    assert any(row.right for row in rows)
    assert all(row.right == (row.answer == "42") for row in rows)


def test_rows_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    run(planned(), tmp_path)
    other = FakeBackend(thinker).info.model_copy(update={"name": "another"})
    with pytest.raises(UsageError, match="holds a run of name fake instead of another; name another folder with --out"):
        run(planned(), tmp_path, FakeBackend(thinker, other))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .*name another folder with --out"):
        run(planned(), tmp_path / "file")


def test_a_damaged_row_is_named_by_its_line(tmp_path: Path) -> None:
    run(planned(), tmp_path)
    with (tmp_path / ROWS).open("a") as rows:
        rows.write(json.dumps({"cell": 1}) + "\n")
    with pytest.raises(UsageError, match=f"{ROWS}, line 7 is no record of this version"):
        run(planned(), tmp_path)


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    async def both() -> None:
        backend = FakeBackend(thinker)
        settings = Settings(suite="chain", split="test", data=None, model=backend.info, sampling=SAMPLING, code="1")
        await asyncio.gather(
            *(evaluate(planned(), backend, settings, {}, tmp_path, lambda row, new: None) for _ in range(2))
        )

    with pytest.raises(UsageError, match="in use by another run"):
        run_virtual(both())


def test_deadlines_share_nothing_because_time_cannot_be_shared(tmp_path: Path) -> None:
    backend = FakeBackend(thinker)
    rows = run(planned(SelfConsistency(n=4), BestOfN(n=4), budgets=[("seconds", 30.0)]), tmp_path, backend)
    assert backend.calls == 6 * 2 * 4
    assert not read_lines(tmp_path / SAMPLES, Sample)
    assert all(row.seconds > 0 for row in rows)


class Served(FakeBackend):
    """A model whose servers are gone after so many calls, and which knows it."""

    def __init__(self, calls: int, **more: Any) -> None:
        super().__init__(thinker, **more)
        self.left = calls

    @property
    def gone(self) -> str | None:
        return None if self.left > 0 else "no replica answers (http://a)"

    async def generate(self, request: Request) -> Completion:
        self._count()
        return await super().generate(request)

    async def read(self, reading: Reading) -> Verdicts:
        self._count()
        return await super().read(reading)

    def _count(self) -> None:
        if self.gone:
            raise BackendError(self.gone, Usage.none())
        self.left -= 1


def test_a_run_whose_model_is_gone_ends_after_a_few_problems_and_goes_on_from_there(tmp_path: Path) -> None:
    plan = replace(planned(SelfConsistency(n=2)), concurrency=1)
    with pytest.raises(BackendError, match=r"no replica answers .*; 3 problems failed .*same command goes on"):
        run(plan, tmp_path, Served(4))
    assert [bool(row.error) for row in read_lines(tmp_path / ROWS, Row)] == [False, False, True, True, True]
    assert not any(row.error for row in run(plan, tmp_path))


def test_a_model_that_comes_back_in_time_ends_no_run(tmp_path: Path) -> None:
    """Failures count as one after the other only while the model is gone."""
    backend = Served(0)

    def observe(row: Row, new: bool) -> None:
        backend.left = int(row.error is not None)

    plan = replace(planned(Single()), concurrency=1)
    rows = run(plan, tmp_path, backend, observe)
    assert len(read_lines(tmp_path / ROWS, Row)) == 6
    assert len(rows) == 6


def test_a_method_is_not_judged_by_what_it_did_without_its_verifier(tmp_path: Path) -> None:
    def judged(sheet: Sheet) -> Opinion:
        return Opinion(pieces=((LOOKED,),) * len(sheet.pieces))

    reader = Served(3, judge=judged)
    asked = Method("judged", BestOfN(n=2), Judge(), fixed=True, models={"judge": reader})
    plan = replace(planned(), methods=[asked], concurrency=1)
    with pytest.raises(BackendError, match="no replica answers"):
        run(plan, tmp_path)
    rows = read_lines(tmp_path / ROWS, Row)
    assert [row.error for row in rows if row.error] == ["no replica answers (http://a)"] * 3
    assert rows[0].error is None
