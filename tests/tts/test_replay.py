from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from strategies import STRATEGIES, BestOfN, SelfConsistency
from tests.verifiers.test_unit_tests import DOUBLES, Listing, job, knows
from tts.errors import JournalMismatch
from tts.journal import JsonlJournal, MemoryJournal
from tts.replay import Sandboxed, replay_file
from tts.strategy import Strategy
from verifiers import VERIFIERS


@pytest.mark.parametrize("strategy", [BestOfN(n=3), SelfConsistency(n=3), Listing(n=3)])
def test_a_job_whose_programs_ran_in_a_sandbox_replays_without_one(strategy: Strategy, tmp_path: Path) -> None:
    with JsonlJournal(tmp_path / "job") as journal:
        first = job("x", "2*x", "2*x", strategy=strategy, journal=journal)
    known: dict[str, type[Strategy]] = {**STRATEGIES, Listing.name: Listing}
    again, header = asyncio.run(replay_file(tmp_path / "job", known, VERIFIERS))
    assert again == first
    assert header.runner == "knows"


def test_a_journal_without_an_end_is_not_resumed_without_its_sandbox() -> None:
    journal = MemoryJournal()
    job("x", "2*x", strategy=SelfConsistency(n=2), journal=journal)
    with pytest.raises(JournalMismatch, match="its runner differs"):
        job("x", "2*x", strategy=SelfConsistency(n=2), journal=MemoryJournal(journal.records[:-1]), runner=None)


def test_a_sandbox_known_by_name_runs_nothing() -> None:
    assert repr(Sandboxed("knows")) == knows.__qualname__
    with pytest.raises(JournalMismatch, match="a program would have to be run"):
        Sandboxed("knows")("x", DOUBLES.tests[0])
