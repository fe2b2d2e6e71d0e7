from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from strategies import BestOfN, SelfConsistency, Single
from tests.fakes import PROBLEM, Nested, as_told, solved, thinker
from tts.answers import Exact
from tts.backends.fake import FakeBackend
from tts.errors import JournalError, JournalMismatch
from tts.journal import Header, JsonlJournal, MemoryJournal, Record, parse
from tts.types import Budget, Problem, Sampling

BUDGET = Budget(tokens=5_000)


def written(file: Path) -> list[Record]:
    return parse(file.read_bytes(), file)[0]


def test_a_file_holds_what_memory_holds(tmp_path: Path) -> None:
    memory, file = MemoryJournal(), tmp_path / "j.jsonl"
    with JsonlJournal(file) as journal:
        assert solved(Nested(), BUDGET, journal=journal) == solved(Nested(), BUDGET, journal=memory)
    assert as_told(written(file)) == as_told(memory.records)


def test_a_torn_last_line_is_cut_off_and_the_job_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    with JsonlJournal(file) as journal:
        whole = solved(Single(), BUDGET, journal=journal)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]) + lines[2][:40])
    with JsonlJournal(file) as journal:
        resumed = solved(Single(), BUDGET, journal=journal)
    assert resumed.answer is not None
    assert whole.answer is not None
    assert resumed.answer.text == whole.answer.text
    assert resumed.bill.lost > 0
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_every_prefix_of_the_bytes_of_a_journal_can_be_resumed(tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    with JsonlJournal(file) as journal:
        solved(BestOfN(n=2), BUDGET, journal=journal)
    data = file.read_bytes()
    for length in range(0, len(data), 97):
        file.write_bytes(data[:length])
        with JsonlJournal(file) as journal:
            result = solved(BestOfN(n=2), BUDGET, journal=journal)
        assert result.samples.finished == 2


def test_a_line_that_is_no_record_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    with JsonlJournal(file) as journal:
        solved(Single(), BUDGET, journal=journal)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + b"{}\n" + b"".join(lines[1:]))
    with JsonlJournal(file) as journal, pytest.raises(JournalError, match="line 2 is not a journal record"):
        asyncio.run(journal.read())


@pytest.mark.parametrize("notes", ["my notes", "my notes\nwithout a last newline", "my notes\n"])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path: Path, notes: str) -> None:
    file = tmp_path / "notes.txt"
    file.write_text(notes)
    with JsonlJournal(file) as journal, pytest.raises(JournalError):
        solved(Single(), BUDGET, journal=journal)
    assert file.read_text() == notes


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    with JsonlJournal(tmp_path / "j.jsonl"), pytest.raises(JournalError, match="in use by another process"):
        JsonlJournal(tmp_path / "j.jsonl")


@pytest.mark.parametrize("place", ["missing/j.jsonl", "."])
def test_a_journal_that_cannot_be_written_is_one_clear_line(tmp_path: Path, place: str) -> None:
    with pytest.raises(JournalError, match=r"^cannot write the journal [^\n]+$"):
        JsonlJournal(tmp_path / place)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("seed", {"seed": 1}),
        ("budget", {"budget": Budget(tokens=4_999)}),
        ("strategy", {"strategy": BestOfN(n=3)}),
        ("sampling", {"sampling": Sampling(max_tokens=9)}),
        ("problem", {"problem": Problem.ask("something else", Exact())}),
    ],
)
def test_a_journal_of_another_job_is_refused_with_what_differs(field: str, change: dict[str, object]) -> None:
    journal = MemoryJournal()
    solved(BestOfN(n=2), BUDGET, journal=journal)
    before = list(journal.records)
    job: dict[str, object] = {"strategy": BestOfN(n=2), "budget": BUDGET, **change}
    with pytest.raises(JournalMismatch, match=f"its {field} differs"):
        solved(**job, journal=journal)  # type: ignore[arg-type]
    assert journal.records == before


def test_a_strategy_that_asks_something_else_on_replay_is_caught() -> None:
    whims = iter(("one", "two"))

    class Whimsical(Single):
        name = "whimsical"

        async def search(self, problem, run):  # type: ignore[no-untyped-def]
            from tts.types import Path as Search

            await run.sample([Search.of(problem).append(next(whims))])
            await run.sample([Search.of(problem)])
            return
            yield

    journal = MemoryJournal()
    solved(Whimsical(), BUDGET, journal=journal)
    with pytest.raises(JournalMismatch, match="the strategy depends on something"):
        solved(Whimsical(), BUDGET, journal=MemoryJournal(journal.records[:4]))


def test_another_version_may_know_more_of_its_models() -> None:
    journal = MemoryJournal()
    solved(BestOfN(n=4), BUDGET, journal=journal)
    header = journal.records[0]
    assert isinstance(header, Header)
    info = header.models["policy"]
    older = info.model_copy(update={"capabilities": info.capabilities - {"continue"}})
    changed = {"code": "0.0.1", "models": {"policy": older}}
    result = solved(
        BestOfN(n=4), BUDGET, journal=MemoryJournal([header.model_copy(update=changed), *journal.records[1:5]])
    )
    assert any("version 0.0.1" in note for note in result.notes)
    same_version = header.model_copy(update={"models": {"policy": older}})
    with pytest.raises(JournalMismatch, match="its models differs"):
        solved(BestOfN(n=4), BUDGET, journal=MemoryJournal([same_version, *journal.records[1:5]]))


def test_another_version_finishes_from_the_recorded_candidates_and_buys_nothing() -> None:
    journal = MemoryJournal()
    solved(SelfConsistency(n=8), BUDGET, journal=journal)
    header = journal.records[0]
    assert isinstance(header, Header)
    old = [header.model_copy(update={"code": "0.0.1"}), *journal.records[1:-6]]
    backend = FakeBackend(thinker)
    result = solved(SelfConsistency(n=8), BUDGET, journal=MemoryJournal(old), backend=backend)
    assert backend.calls == 0
    assert result.answer is not None
    assert result.answer.text == "42"
    assert any("version 0.0.1" in note for note in result.notes)


def test_an_answer_kind_and_its_problem_travel_in_the_header() -> None:
    journal = MemoryJournal()
    solved(Single(), BUDGET, journal=journal)
    header = journal.records[0]
    assert isinstance(header, Header)
    assert Header.model_validate_json(header.model_dump_json()).problem == PROBLEM
