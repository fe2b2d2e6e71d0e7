"""Process reward models behind the door, with a fake that reads: which sheets are written, which scores come of them,
what it costs and what happens when it fails."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path as File
from typing import Any, get_args

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from service.commands import cli
from strategies import STRATEGIES, Beam, BestOfN
from tests.fakes import PROBLEM, Dying, as_told, in_flight, solved, stepper, thinker
from tests.tts.test_run import doing, done
from tts.answers import Maths
from tts.backends.base import Request
from tts.backends.fake import FAKE, FakeBackend, Judge, Opinion, Reply, silent
from tts.cost import flops
from tts.errors import UsageError
from tts.journal import Ended, Header, Journal, JsonlJournal, MemoryJournal, Settled
from tts.replay import replay_file
from tts.run import Run
from tts.types import Budget, Looks, Message, Path, Problem, Remaining, Result, Sheet, Usage, number
from verifiers import VERIFIERS, ProcessReward
from verifiers.process_reward import BOXED, FORMS, SHEPHERD_TAG, Name, pieces_of, product

NAMES: tuple[Name, ...] = get_args(Name)
every_form = pytest.mark.parametrize("form", NAMES)
ASKED = (Message(role="user", content="how much?"),)
READER = FAKE.model_copy(update={"name": "reader", "parameters": 7_000_000})


def honest(sheet: Sheet) -> Opinion:
    """Says of every piece what depends on all that was written up to it, and on nothing else."""
    looks: list[Looks] = []
    for i in range(sheet.skip, len(sheet.pieces)):
        draw = (number(repr(sheet.pieces[: i + 1])) % 1_000 + 1) / 1_002
        one = (math.log(draw), math.log(1 - draw))[: len(sheet.ask) or 2]
        looks.append((one,) * (len(sheet.pieces[i].split()) if sheet.place == "token" else 1))
    return Opinion(tuple(looks))


class Listening:
    """A judge that remembers what it was asked."""

    def __init__(self, judge: Judge = honest) -> None:
        self.judge = judge
        self.heard: list[tuple[str, ...]] = []

    def __call__(self, sheet: Sheet) -> Opinion:
        self.heard.append(sheet.pieces[sheet.skip :])
        return self.judge(sheet)


def reader(judge: Judge = honest, **info: Any) -> FakeBackend:
    return FakeBackend(silent, READER.model_copy(update=info), judge=judge)


def root(step_end: str = "\n\n") -> Path:
    return Path.of(PROBLEM.model_copy(update={"step_end": step_end}))


def scored(
    *rounds: Sequence[str],
    form: Name = "qwen",
    judge: Judge = honest,
    step_end: str = "\n\n",
    **options: Any,
) -> list[Path]:
    """Paths after being scored once a round; in each round, each of them goes on with its text."""

    async def body(problem: Problem, run: Run) -> list[Path]:
        paths = [Path.of(problem) for _ in rounds[0]]
        for texts in rounds:
            longer = [path.append(text) for path, text in zip(paths, texts, strict=True)]
            paths = await run.score(longer)
        return paths

    options.setdefault("readers", {"verifier": reader(judge)})
    problem = PROBLEM.model_copy(update={"step_end": step_end})
    found: list[Path] = done(body, problem=problem, scorer=ProcessReward(form=form), **options)
    return found


def value(path: Path) -> float | None:
    return path.score.value if path.score else None


@every_form
def test_every_step_has_a_score_and_empty_ones_are_none(form: Name) -> None:
    judge = Listening()
    (path,) = scored(["\n\none\n\n  \n\n\n\ntwo\nthree\n\nfour\n\n \n"], form=form, judge=judge)
    assert path.score is not None
    assert len(path.score.steps) == len(judge.heard[0]) == 3
    assert path.score.value == min(path.score.steps)
    assert all(0 < step < 1 for step in path.score.steps)


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\n\n \n\n\n"])
def test_a_path_of_no_step_has_no_score_and_is_not_read(text: str) -> None:
    judge = Listening()
    (path,) = scored([text], judge=judge)
    assert path.score is None
    assert judge.heard == []


@every_form
def test_only_new_steps_are_asked_about_when_a_path_goes_on(form: Name) -> None:
    judge = Listening()
    (path,) = scored(["one\n\n"], ["two\n\n  "], ["\n\nthree"], [" and\n\nfour\n\n"], form=form, judge=judge)
    asked = [[piece.strip() for piece in heard] for heard in judge.heard]
    assert [len(heard) for heard in asked] == [1, 1, 1, 2]
    assert asked[1:] == [["two"], ["three"], ["three and", "four"]]
    (fresh,) = scored([path.text], form=form)
    assert path.score == fresh.score


def test_a_step_that_has_not_ended_is_judged_again_when_it_has() -> None:
    judge = Listening()
    (path,) = scored(["one\n\ntw"], ["o\n\n"], judge=judge)
    assert judge.heard == [("one", "tw"), ("two",)]
    (fresh,) = scored(["one\n\ntwo\n\n"])
    assert path.score == fresh.score


def test_a_path_that_says_nothing_new_is_not_read_again() -> None:
    judge = Listening()
    (path,) = scored(["one\n\n"], [" \n"], [""], ["\n\n"], judge=judge)
    assert len(judge.heard) == 1
    (fresh,) = scored(["one\n\n"])
    assert path.score == fresh.score


@given(
    form=st.sampled_from(NAMES),
    step_end=st.sampled_from(["\n", "\n\n", "--", "aba"]),
    parts=st.lists(st.text("ab-\n ", max_size=6), min_size=1, max_size=6),
)
def test_reading_on_comes_to_the_same_as_reading_everything_afresh(form: Name, step_end: str, parts: list[str]) -> None:
    (path,) = scored(*([part] for part in parts), form=form, step_end=step_end)
    (fresh,) = scored(["".join(parts)], form=form, step_end=step_end)
    assert path.score == fresh.score
    pieces = pieces_of(path.text, step_end)
    assert (path.score is not None) == bool(pieces)
    assert len(pieces) - 1 <= len(path.judged) <= len(pieces) or not pieces


def test_the_same_text_is_read_once_however_many_paths_hold_it() -> None:
    judge = Listening()
    same, other, again, ended = scored(["one\n\ntwo", "three", "one\n\ntwo", "one\n\ntwo\n\n"], judge=judge)
    assert judge.heard == [("one", "two"), ("three",)]
    assert value(same) == value(again) == value(ended) != value(other)
    assert [len(path.judged) for path in (same, again, ended)] == [1, 1, 2]


def saying(*looks: Looks) -> Callable[[Sheet], Opinion]:
    return lambda sheet: Opinion(looks)


NUMBERS: Looks = ((0.5, 0.5),)
FAILURES: dict[str, Judge] = {
    "fails": lambda sheet: Opinion(error="overloaded"),
    "dies midway": lambda sheet: Opinion(latency=3.0, error="connection reset"),
    "says what is no number": saying(((math.nan, 0.0),), NUMBERS),
    "says what is infinite": saying(NUMBERS, ((0.0, math.inf),)),
    "says too little": saying(NUMBERS),
    "says too much": saying(NUMBERS, NUMBERS, NUMBERS),
    "says nothing": saying(),
    "says nothing of a piece": saying(NUMBERS, ()),
    "looks twice at a piece": saying(NUMBERS, (*NUMBERS, *NUMBERS)),
    "forgets a token": saying(NUMBERS, ((0.5,),)),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_reader_that_fails_gives_no_score_and_never_a_zero(failure: str) -> None:
    def judge(sheet: Sheet) -> Opinion:
        return FAILURES[failure](sheet) if "bad" in sheet.pieces[-1] else honest(sheet)

    bad, good = scored(["one\n\nbad", "one\n\ngood"], form="rlhflow", judge=judge)
    assert bad.score is None
    assert bad.judged == ()
    (alone,) = scored(["one\n\ngood"], form="rlhflow")
    assert good.score == alone.score


def test_what_was_said_before_a_failure_is_kept_for_the_next_reading() -> None:
    failing = iter([False, True, False])

    def once(sheet: Sheet) -> Opinion:
        return Opinion(error="overloaded") if next(failing) else honest(sheet)

    judge = Listening(once)
    (path,) = scored(["one\n\n"], ["two\n\n"], ["three\n\n"], judge=judge)
    assert judge.heard == [("one",), ("two",), ("two", "three")]
    (fresh,) = scored(["one\n\ntwo\n\nthree\n\n"])
    assert path.score == fresh.score


@pytest.mark.parametrize("failure", ["fails", "dies midway", "says what is no number", "says nothing"])
@pytest.mark.parametrize("strategy", [BestOfN(n=4), Beam(n=4)], ids=lambda each: each.name)
def test_a_search_goes_on_without_scores_and_says_what_failed(strategy: BestOfN | Beam, failure: str) -> None:
    result = solved(
        strategy,
        Budget(tokens=20_000),
        backend=FakeBackend(stepper),
        scorer=ProcessReward(form="rlhflow"),
        readers={"verifier": reader(FAILURES[failure])},
    )
    assert result.answer is not None
    assert result.samples.failed == 0, "a failed reading is no failed sample"
    (note,) = [each for each in result.notes if "of the verifier failed, so " in each]
    assert "scores are missing: " in note
    if "so its scores" in note:
        assert "weighted" not in result.answer.chosen
        assert "highest" not in result.answer.chosen


def test_reading_is_paid_in_flops_and_never_in_tokens() -> None:
    seen: list[Remaining] = []

    async def body(problem: Problem, run: Run) -> None:
        seen.append(run.remaining)
        await run.score([Path.of(problem).append(text) for text in ("one\n\ntwo", "three")])
        seen.append(run.remaining)

    budget, readers = Budget(tokens=500, flops=1e12), {"verifier": reader()}
    result = solved(doing(body, "scores"), budget, scorer=ProcessReward(form="rlhflow"), readers=readers)
    sheets = [FORMS["rlhflow"].sheet(PROBLEM.messages, pieces, 0) for pieces in (("one", "two"), ("three",))]
    lengths = [reader().sheet_tokens(sheet) for sheet in sheets]
    cost = sum(flops(READER, length, 0, 0) for length in lengths)
    assert result.usage == {"verifier": Usage.of(prompt=sum(lengths), cached=0, completion=0, seconds=0.0)}
    assert (result.bill.flops, result.bill.tokens, result.bill.lost) == (cost, 0, 0)
    assert [(call.role, call.tokens, call.outcome) for call in result.trace.calls] == [("verifier", 0, "completed")] * 2
    before, after = seen
    assert after == before.model_copy(update={"flops": 1e12 - cost})


def test_a_failed_reading_is_charged_with_what_it_is_known_to_have_cost() -> None:
    async def body(problem: Problem, run: Run) -> None:
        await run.score([Path.of(problem).append("one")])

    judge = FAILURES["says too much"]
    backend = reader(judge)
    result = solved(doing(body), Budget(tokens=500), scorer=ProcessReward(), readers={"verifier": backend})
    sheet = FORMS["qwen"].sheet(PROBLEM.messages, ("one",), 0)
    assert result.bill.flops == flops(READER, backend.sheet_tokens(sheet), 0, 0)
    assert result.bill.tokens == 0


def test_a_reading_that_the_flops_do_not_pay_for_is_refused_and_gives_no_score() -> None:
    backend = reader(parameters=10**12)
    result = solved(
        BestOfN(n=4),
        Budget(tokens=20_000, flops=1e12),
        scorer=ProcessReward(),
        readers={"verifier": backend},
    )
    assert backend.calls == 0
    assert result.answer is not None
    assert result.answer.support == 0.0
    assert result.stop == "budget"
    assert result.samples.finished == 4
    assert "verifier" not in result.usage


def test_a_text_longer_than_what_the_model_reads_has_no_score() -> None:
    long, short = scored(["word " * 100, "word"], readers={"verifier": reader(context=50)})
    assert long.score is None
    assert short.score is not None


def test_a_halt_ends_the_reading_without_a_score_and_costs_nothing() -> None:
    seen: list[Path] = []

    async def body(problem: Problem, run: Run) -> None:
        seen.extend(await run.score([Path.of(problem).append("one"), Path.of(problem).append("two")]))

    def slow(sheet: Sheet) -> Opinion:
        return Opinion(honest(sheet).pieces, latency=1.0 if sheet.pieces == ("one",) else 100.0)

    result = solved(doing(body), Budget(seconds=2.0), scorer=ProcessReward(), readers={"verifier": reader(slow)})
    assert [path.score is None for path in seen] == [False, True]
    assert result.stop == "deadline"
    assert 2.0 <= result.bill.seconds <= 2.2
    sheet = FORMS["qwen"].sheet(PROBLEM.messages, ("one",), 0)
    assert result.bill.flops == flops(READER, reader().sheet_tokens(sheet), 0, 0)


def never(request: Request) -> Reply:
    raise AssertionError("a replay asked for tokens")


def unheard(sheet: Sheet) -> Opinion:
    raise AssertionError("a replay asked for a reading")


def search(journal: Journal, policy: FakeBackend, judges: FakeBackend, budget: Budget) -> Result:
    return solved(
        Beam(n=4, m=2),
        budget,
        backend=policy,
        journal=journal,
        scorer=ProcessReward(form="math_shepherd"),
        readers={"verifier": judges},
    )


BUDGETS = [Budget(tokens=2_000), Budget(tokens=2_000, flops=4e9), Budget(tokens=2_000, seconds=7.2)]
"""Enough; too little for all readings; and a deadline that comes while some are under way."""


def slowly(sheet: Sheet) -> Opinion:
    """Takes its time, and now and then fails."""
    draw = number(repr(sheet))
    return Opinion(honest(sheet).pieces, latency=draw % 7 / 10, error=None if draw % 5 else "overloaded")


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_a_replay_reads_nothing_and_comes_to_the_same(budget: Budget) -> None:
    journal = MemoryJournal()
    first = search(journal, FakeBackend(stepper), reader(slowly), budget)
    before = list(journal.records)
    assert any(isinstance(record, Settled) and record.verdicts for record in before)
    assert search(journal, FakeBackend(never), reader(unheard), budget) == first
    assert journal.records == before


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_a_journal_on_disk_is_read_back_without_any_model(budget: Budget, tmp_path: File) -> None:
    file = tmp_path / "journal.jsonl"
    with JsonlJournal(file) as journal:
        first = search(journal, FakeBackend(stepper), reader(slowly), budget)
    again, header = asyncio.run(replay_file(file, STRATEGIES, VERIFIERS))
    assert again == first
    assert set(header.models) == {"policy", "verifier"}


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_a_search_killed_at_any_journal_position_reads_nothing_twice(budget: Budget) -> None:
    whole = MemoryJournal()
    uninterrupted = search(whole, FakeBackend(stepper), reader(slowly), budget)
    for position in range(1, len(whole.records)):
        dying = Dying(position)
        with pytest.raises(Dying.Killed):
            search(dying, FakeBackend(stepper), reader(slowly), budget)
        resumed(dying, budget, uninterrupted)


def resumed(dying: Dying, budget: Budget, uninterrupted: Result) -> None:
    died = dying.records
    journal, policy, judges = MemoryJournal(died), FakeBackend(stepper), reader(slowly)
    result = search(journal, policy, judges, budget)
    assert isinstance(journal.records[-1], Ended)
    fresh = [record for record in journal.records[len(died) :] if isinstance(record, Settled)]
    assert judges.calls == sum(each.role == "verifier" and each.outcome in ("completed", "failed") for each in fresh)
    keys = [record.key for record in journal.records if isinstance(record, Settled)]
    assert len(keys) == len(set(keys)), "a settled call was paid twice"
    assert result.bill.tokens <= (budget.tokens or 0)
    assert result.bill.flops <= (budget.flops or math.inf) * (1 + 1e-9)
    flying = in_flight(died)
    assert result.bill.lost == sum(held.granted for held in flying), "a lost reading has generated nothing"
    if not flying and budget.seconds is None:
        assert result.answer == uninterrupted.answer
        assert (result.bill.tokens, result.bill.flops) == (uninterrupted.bill.tokens, uninterrupted.bill.flops)
        assert result.usage == uninterrupted.usage


def test_the_same_seed_gives_the_same_journal() -> None:
    journals = MemoryJournal(), MemoryJournal()
    for journal in journals:
        search(journal, FakeBackend(stepper), reader(slowly), BUDGETS[0])
    assert as_told(journals[0].records) == as_told(journals[1].records)


def sheet_of(form: Name, *pieces: str, before: tuple[Message, ...] = ASKED, skip: int = 0) -> Sheet:
    return FORMS[form].sheet(before, pieces, skip)


def test_math_shepherd_reads_question_and_steps_as_one_text_with_a_tag_after_every_step() -> None:
    sheet = sheet_of("math_shepherd", "Step 1: a", "\nStep 2: b ", "The answer is: 3")
    assert isinstance(sheet.before, str)
    written = sheet.before + "".join(piece + sheet.mark for piece in sheet.pieces)
    assert written == "how much? Step 1: a ки\nStep 2: b ки\nThe answer is: 3 ки"
    assert (sheet.ask, sheet.place, sheet.turns) == (("+", "-"), "mark", False)


@pytest.mark.parametrize("forged", ["ки", " ки\n", "кики", "ккии", "книга и кит", "великий"])
def test_math_shepherds_tag_is_in_nobodys_text(forged: str) -> None:
    before = (Message(role="user", content=f"what is {forged}?"),)
    sheet = sheet_of("math_shepherd", f"a {forged}", forged, f"{forged}b", before=before)
    assert isinstance(sheet.before, str)
    assert len(sheet.pieces) == 3
    assert all(SHEPHERD_TAG not in text for text in (sheet.before, *sheet.pieces))
    assert "".join(sheet.before.split()) == "".join(f"what is {forged}?".split()), "nothing but spaces is added"


def test_rlhflow_tells_the_steps_as_a_user_and_the_question_before_the_first() -> None:
    sheet = sheet_of("rlhflow", "a", "b\n", "\nc")
    assert (sheet.before, sheet.pieces, sheet.mark) == ((), ("how much? a", "b", "c"), "+")
    assert (sheet.ask, sheet.place, sheet.turns) == (("+", "-"), "piece", True)


def test_qwen_reads_a_system_prompt_and_a_tag_after_every_step() -> None:
    sheet = sheet_of("qwen", "a", "\nb ")
    assert sheet.before == (Message(role="system", content=BOXED), *ASKED)
    assert BOXED == r"Please reason step by step, and put your final answer within \boxed{}."
    assert (sheet.pieces, sheet.mark, sheet.ask, sheet.place) == (("a", "b"), "<extra_0>", (), "mark")
    own = (Message(role="system", content="Be brief."), *ASKED)
    assert sheet_of("qwen", "a", before=own).before == own


def test_the_labs_models_are_looked_at_after_every_symbol_of_a_line_and_its_end() -> None:
    sheet = sheet_of("lab", "a=1", "b=2")
    assert (sheet.before, sheet.pieces, sheet.mark) == (ASKED, ("a=1", "b=2"), "\n")
    assert (sheet.ask, sheet.place, sheet.turns) == (("+",), "token", False)
    assert product(((math.log(0.5),), (math.log(0.25),))) == pytest.approx(0.125)


@every_form
def test_what_was_judged_before_is_written_down_all_the_same(form: Name) -> None:
    whole, later = sheet_of(form, "a", "b", "c"), sheet_of(form, "a", "b", "c", skip=2)
    assert later == whole.model_copy(update={"skip": 2})


@pytest.mark.parametrize(
    ("form", "looks"),
    [
        ("math_shepherd", (1.0, 1.0 + math.log(3.0))),
        ("rlhflow", (2.0, 2.0 + math.log(3.0))),
        ("qwen", (math.log(3.0), 0.0)),
    ],
)
def test_a_steps_score_is_the_chance_of_the_better_of_two_verdicts(form: Name, looks: tuple[float, ...]) -> None:
    assert FORMS[form].value((looks,)) == pytest.approx(0.25)


@pytest.mark.parametrize("gap", [1e4, -1e4, 800.0, -800.0])
def test_a_chance_is_a_chance_however_far_the_verdicts_are_apart(gap: float) -> None:
    assert FORMS["rlhflow"].value(((gap, 0.0),)) == pytest.approx(float(gap > 0), abs=1e-300)
    assert FORMS["qwen"].value(((gap, 0.0),)) == pytest.approx(float(gap < 0), abs=1e-300)


@pytest.mark.parametrize("how", ["last", "min", "prod", "mean"])
def test_steps_are_taken_together_as_asked(how: Any) -> None:
    taken = {"last": 0.5, "min": 0.2, "prod": 0.08, "mean": 0.5}

    def judge(sheet: Sheet) -> Opinion:
        return Opinion(tuple(((math.log(p), math.log(1 - p)),) for p in (0.8, 0.2, 0.5)))

    async def body(problem: Problem, run: Run) -> list[Path]:
        return await run.score([Path.of(problem).append("a\n\nb\n\nc\n\n")])

    (path,) = done(body, scorer=ProcessReward(form="rlhflow", how=how), readers={"verifier": reader(judge)})
    assert value(path) == pytest.approx(taken[how])
    assert path.judged == pytest.approx((0.8, 0.2, 0.5))


@every_form
def test_a_start_of_token_ids_is_refused_in_one_line(form: Name) -> None:
    async def body(problem: Problem, run: Run) -> list[Path]:
        return await run.score([Path(start=(1, 2, 3)).append("a")])

    with pytest.raises(UsageError, match="begins with token ids"):
        done(body, scorer=ProcessReward(form=form), readers={"verifier": reader()})


@pytest.mark.parametrize("form", ["rlhflow", "math_shepherd"])
def test_a_problem_that_nobody_asks_is_refused_in_one_line(form: Name) -> None:
    problem = Problem(id="x", messages=(Message(role="system", content="Be brief."),), kind=Maths())
    with pytest.raises(UsageError, match="nobody asks one here"):
        FORMS[form].sheet(problem.messages, ("a",), 0)


@pytest.mark.parametrize("looks", [(0.5,), (0.5, 0.5, 0.5)])
def test_a_classifier_of_other_than_two_classes_is_refused_in_one_line(looks: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match=rf"says {len(looks)} numbers?, and two are wanted"):
        scored(["a"], judge=saying((looks,)))


def test_without_its_model_it_is_refused_before_the_first_token() -> None:
    policy = FakeBackend(never)
    with pytest.raises(UsageError, match="prm needs a model that reads"):
        solved(BestOfN(n=2), Budget(tokens=100), backend=policy, scorer=ProcessReward())
    with pytest.raises(UsageError, match="needs prefill_score from its model, and fake does not offer it"):
        solved(
            BestOfN(n=2),
            Budget(tokens=100),
            backend=policy,
            scorer=ProcessReward(),
            readers={"verifier": FakeBackend(thinker)},
        )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "prm needs a model; name it"),
        (["model=fake:tests.handlers:quick"], "prm needs prefill_score from its model, and fake does not offer it"),
        (["model=local:/no/such/folder"], "no model at /no/such/folder"),
        (["model=vllm:x"], "unknown backend 'vllm'"),
        (["model=fake:tests.handlers:quick", "form=quen"], "form: Input should be 'lab', 'math_shepherd', 'rlhflow'"),
        (["model=fake:tests.handlers:quick", "how=max"], "how: Input should be 'last', 'min', 'prod' or 'mean'"),
    ],
)
def test_on_the_command_line_bad_input_is_one_line_and_exit_2(given: list[str], words: str) -> None:
    params = [word for each in given for word in ("--verifier-param", each)]
    words_before = ["solve", "How much?", "--backend", "fake:tests.handlers:quick", "--tokens", "500"]
    result = CliRunner().invoke(cli, [*words_before, "--verifier", "prm", *params], catch_exceptions=False)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("loading ")]
    assert line.startswith("tts: ")
    assert words in line
    assert result.stdout == ""


def test_it_is_in_the_journals_header_with_its_parameters() -> None:
    journal = MemoryJournal()
    search(journal, FakeBackend(stepper), reader(), BUDGETS[0])
    header = journal.records[0]
    assert isinstance(header, Header)
    assert header.scorer is not None
    assert (header.scorer.name, header.scorer.parameters["form"]) == ("prm", "math_shepherd")
    assert header.models["verifier"] == reader().info
    assert VERIFIERS["prm"] is ProcessReward
