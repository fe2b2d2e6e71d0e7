"""What a call has generated when its process dies is not bought again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from strategies import BestOfN
from tests.fakes import PROBLEM, Dying, Nested, in_flight, solved, thinker
from tts.backends.base import CHECKPOINT, Request
from tts.backends.fake import FAKE, FakeBackend, Reply
from tts.clock import run_virtual
from tts.errors import BackendError, Suspended, UsageError
from tts.halt import Halt
from tts.journal import Checkpoint, Ended, Held, MemoryJournal, Record, Settled
from tts.solve import solve
from tts.strategy import Strategy
from tts.types import Budget, Completion, Path, Sampling, Usage
from verifiers import Confidence

WORDS = [f" w{i}" for i in range(1_000)]
WORDS[100] = r" \boxed{7}"
BUDGET, SAMPLING = Budget(tokens=5_000), Sampling(max_tokens=1_200)
STRATEGY = BestOfN(n=2)


def counting(request: Request) -> Reply:
    """Goes on counting from where a path has come to."""
    return Reply("".join(WORDS[request.path.tokens :]), latency=0.1, per_token=0.01)


class Outliving(FakeBackend):
    """An engine of its own, which outlives whoever asked it."""

    in_process = False

    def __init__(self) -> None:
        super().__init__(counting)
        self.aborted: list[str] = []

    async def abort(self, id: str) -> None:
        self.aborted.append(id)


def died_at(position: int) -> list[Record]:
    dying = Dying(position)
    with pytest.raises(Dying.Killed):
        solved(STRATEGY, BUDGET, backend=FakeBackend(counting), journal=dying, sampling=SAMPLING)
    return dying.records


def whole() -> MemoryJournal:
    journal = MemoryJournal()
    solved(STRATEGY, BUDGET, backend=FakeBackend(counting), journal=journal, sampling=SAMPLING)
    return journal


def test_a_long_call_is_checkpointed_and_its_pieces_are_the_beginning_of_what_it_brings() -> None:
    records = whole().records
    for key in ("0.0", "0.1"):
        pieces = [r.piece for r in records if isinstance(r, Checkpoint) and r.key == key]
        (settled,) = [r for r in records if isinstance(r, Settled) and r.key == key]
        assert len(pieces) == 999 // CHECKPOINT
        joined = Completion.joined(pieces)
        assert joined.usage.completion_tokens == 3 * CHECKPOINT
        assert settled.segments[0].text.startswith(joined.text)
        assert settled.segments[0].token_ids is not None
        assert joined.token_ids == settled.segments[0].token_ids[: 3 * CHECKPOINT]


def test_killed_anywhere_a_job_goes_on_from_its_checkpoints_and_loses_no_more_than_came_after_them() -> None:
    for position in range(1, len(whole().records)):
        died = died_at(position)
        flying = in_flight(died)
        backend, journal = FakeBackend(counting), MemoryJournal(died)
        result = solved(STRATEGY, BUDGET, backend=backend, journal=journal, sampling=SAMPLING)
        assert result.answer is not None
        assert result.answer.path.text.split() == "".join(WORDS).split()
        kept = sum(r.piece.usage.completion_tokens for r in died if isinstance(r, Checkpoint) and is_in(r, flying))
        assert result.bill.lost <= CHECKPOINT * len(flying)
        paid_before = sum(int(r.spend.tokens) for r in died if isinstance(r, Settled))
        assert backend.generated == result.bill.tokens - result.bill.lost - paid_before - kept
        again = solved(STRATEGY, BUDGET, backend=backend, journal=MemoryJournal(journal.records), sampling=SAMPLING)
        assert again == result


def is_in(checkpoint: Checkpoint, flying: list[Held]) -> bool:
    return checkpoint.key in {held.key for held in flying}


def test_an_engine_that_outlives_its_caller_is_told_to_stop_and_the_rest_of_the_hold_is_lost() -> None:
    died = died_at(position=6)
    flying = in_flight(died)
    assert len(flying) == 2
    kept = sum(r.piece.usage.completion_tokens for r in died if isinstance(r, Checkpoint))
    assert kept
    backend = Outliving()
    result = solved(STRATEGY, BUDGET, backend=backend, journal=MemoryJournal(died), sampling=SAMPLING)
    assert backend.aborted == [held.id for held in flying]
    assert result.bill.lost == sum(held.granted for held in flying) - kept
    assert result.bill.tokens <= 5_000


def test_where_the_rest_cannot_be_bought_what_was_checkpointed_is_a_truncated_sample() -> None:
    died = died_at(position=6)
    failing = FakeBackend(lambda request: Reply("", error="broken"))
    result = solved(STRATEGY, BUDGET, backend=failing, journal=MemoryJournal(died), sampling=SAMPLING)
    assert result.answer is not None
    assert result.answer.path.truncated
    assert result.answer.path.text.startswith(" w0 w1 ")


@pytest.mark.parametrize("stop", [" w255 w256", " w254 w255 w256"])
def test_a_text_is_not_cut_within_what_may_become_a_stop_string(stop: str) -> None:
    journal, sampling = MemoryJournal(), Sampling(max_tokens=1_200, stop=(stop,))
    solved(BestOfN(n=1), BUDGET, backend=FakeBackend(counting), journal=journal, sampling=sampling)
    assert not [r for r in journal.records if isinstance(r, Checkpoint)]


def test_pieces_are_joined_into_one_completion() -> None:
    usage = Usage.of(prompt=5, cached=1, completion=2, seconds=1.0)
    first = Completion(text="a ", token_ids=(1, 2), logprob=-1.0, self_certainty=None, finish="until", usage=usage)
    both = Completion.joined([first, first.model_copy(update={"finish": "stop"})])
    assert (both.text, both.token_ids, both.logprob, both.finish) == ("a a ", (1, 2, 1, 2), -2.0, "stop")
    assert both.since(first).text == "a "
    assert both.since(first).usage == usage
    sure = [
        first.model_copy(update={"self_certainty": c, "usage": Usage.of(prompt=5, cached=0, completion=n, seconds=1.0)})
        for c, n in ((2.0, 3), (6.0, 1))
    ]
    assert Completion.joined(sure).self_certainty == 3.0
    assert Completion.joined(sure).since(sure[0]).self_certainty == 6.0
    blank = first.model_copy(update={"token_ids": None, "logprob": None})
    assert Completion.joined([first, blank]).token_ids is None
    assert Completion.joined([first, blank]).logprob is None
    assert Path(start=(1,)).extend(both, "0.0").finished


def test_a_backend_error_after_a_checkpoint_leaves_nothing_running() -> None:
    class Breaking(FakeBackend):
        async def generate(self, request: Request) -> Completion:
            completion = await super().generate(request)
            raise BackendError("broken", usage=completion.usage)

    journal = MemoryJournal()
    with pytest.raises(Exception, match="broken"):
        solved(STRATEGY, BUDGET, backend=Breaking(counting), journal=journal, sampling=SAMPLING)
    assert [r for r in journal.records if isinstance(r, Checkpoint)]


def suspended_at(
    seconds: float,
    backend: FakeBackend,
    sampling: Sampling = SAMPLING,
    strategy: Strategy = STRATEGY,
    budget: Budget = BUDGET,
) -> list[Record]:
    """The journal of a job that was let go of after so many seconds; a little later nothing of it runs any more."""
    journal, halt = MemoryJournal(), Halt()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, halt.set, "suspended")
        async with asyncio.timeout_at(loop.time() + seconds + 5):
            try:
                await solve(
                    PROBLEM,
                    strategy,
                    {"policy": backend},
                    budget=budget,
                    scorer=Confidence(),
                    sampling=sampling,
                    journal=journal,
                    halt=halt,
                )
            finally:
                assert asyncio.all_tasks() == {asyncio.current_task()}

    with pytest.raises(Suspended):
        run_virtual(main())
    return journal.records


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.15, 1.0, 2.7, 5.0, 9.9])
@pytest.mark.parametrize("engine", [lambda: FakeBackend(counting), Outliving])
def test_a_job_that_is_suspended_goes_on_elsewhere_and_loses_nothing(
    seconds: float, engine: Callable[[], FakeBackend]
) -> None:
    first, second = engine(), engine()
    records = suspended_at(seconds, first)
    assert not in_flight(records)
    assert not [r for r in records if isinstance(r, Settled) and r.reason is not None]
    result = solved(STRATEGY, BUDGET, backend=second, journal=MemoryJournal(records), sampling=SAMPLING)
    assert result.answer is not None
    assert result.answer.path.text.split() == "".join(WORDS).split()
    assert result.bill.lost == 0
    assert (result.samples.finished, result.samples.failed) == (2, 0)
    assert first.generated + second.generated == result.bill.tokens == 2 * 1_000


def test_what_a_grammar_held_is_drawn_anew_and_booked_as_lost() -> None:
    def offering(request: Request) -> Reply:
        return counting(request)

    offering.offers = {"grammar"}  # type: ignore[attr-defined]
    held = SAMPLING.model_copy(update={"json_schema": "{}"})
    first, second = FakeBackend(offering), FakeBackend(offering)
    records = suspended_at(1.0, first, sampling=held)
    result = solved(STRATEGY, BUDGET, backend=second, journal=MemoryJournal(records), sampling=held)
    assert result.answer is not None
    assert result.answer.path.text.split() == "".join(WORDS).split()
    assert result.bill.lost == first.generated > 0
    assert result.bill.tokens == first.generated + second.generated


def test_a_suspended_job_is_neither_finished_nor_salvaged() -> None:
    records = suspended_at(1.0, FakeBackend(counting))
    assert not [r for r in records if isinstance(r, Ended)]
    assert all(not r.key.startswith("finish/") for r in records if isinstance(r, Held))


@pytest.mark.parametrize("tenths", range(0, 60, 2))
def test_a_job_that_hears_of_children_as_they_come_is_let_go_of_at_any_moment(tenths: int) -> None:
    records = suspended_at(tenths / 10, FakeBackend(thinker), strategy=Nested())
    assert not in_flight(records)
    assert solved(Nested(), BUDGET, journal=MemoryJournal(records), sampling=SAMPLING).bill.lost == 0


@pytest.mark.parametrize("seconds", [1.15, 1.3, 1.6])
def test_a_job_is_suspended_also_while_an_answer_is_forced(seconds: float) -> None:
    def hesitant(request: Request) -> Reply:
        forced = request.sampling.temperature == 0
        taken = request.path.steps[-1].tokens if forced else 0
        words = [" so"] * 9 + [" 7}"] if forced else [" well"] * 20
        return Reply("".join(words[taken:]), latency=0.1, per_token=0.05)

    first, second, strategy = FakeBackend(hesitant), FakeBackend(hesitant), BestOfN(n=1)
    records = suspended_at(seconds, first, strategy=strategy)
    assert [r.outcome for r in records if isinstance(r, Settled)] == ["completed", "lost"]
    result = solved(strategy, BUDGET, backend=second, journal=MemoryJournal(records), sampling=SAMPLING)
    assert result.answer is not None
    assert result.answer.chosen == "forced at the end"
    assert result.bill.lost == 0
    assert first.generated + second.generated == result.bill.tokens == 30


class Provider(FakeBackend):
    """A chat API: it continues nothing, and of what it is cut off in nobody says how much it was."""

    def __init__(self) -> None:
        info = FAKE.model_copy(update={"capabilities": FAKE.capabilities - {"continue"}})
        super().__init__(counting, info)

    def prompt_tokens(self, path: Path) -> int:
        if path.steps:
            raise UsageError("it cannot continue a text")
        return super().prompt_tokens(path)

    async def generate(self, request: Request) -> Completion:
        completion = await super().generate(request)
        if completion.finish != "halted" or not completion.text:
            return completion
        self.generated += request.max_tokens - completion.usage.completion_tokens
        usage = completion.usage.model_copy(update={"completion_tokens": request.max_tokens})
        return completion.model_copy(update={"token_ids": None, "logprob": None, "usage": usage})


@pytest.mark.parametrize("most", [1_200, 6_000])
def test_what_cannot_be_continued_is_drawn_anew(most: int) -> None:
    sampling, first, second = Sampling(max_tokens=most), Provider(), Provider()
    records = suspended_at(1.0, first, sampling, BestOfN(n=1), Budget(tokens=5_000))
    result = solved(
        BestOfN(n=1), Budget(tokens=5_000), backend=second, journal=MemoryJournal(records), sampling=sampling
    )
    assert result.bill.tokens == first.generated + second.generated
    assert result.bill.lost == first.generated
    if most < 5_000:
        assert result.answer is not None
        assert result.answer.path.text.split() == "".join(WORDS).split()
