"""Sheets, read by a served model as the local engine reads them."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

pytest.importorskip("torch", reason="the local backend's extra is not installed")

from evals.sglang_cpu import Server
from evals.suites import SUITES
from tests.sglang.conftest import REWARD, connected
from tts.backends.base import Reading
from tts.backends.local import LocalBackend
from tts.backends.sglang import SGLangBackend
from tts.errors import UsageError
from tts.halt import Halt
from tts.types import Message, Sheet, Verdicts

NUMBERS = count()
QUESTION = SUITES["chain"].items("dev", 1, None)[0].problem.messages
STEPS = ("jmy:", "y=22*7=10", "m=y*18=10*18=19", "a=16*7=20")


def sheet(pieces: tuple[str, ...], skip: int = 0, place: str = "token") -> Sheet:
    return Sheet.model_validate(
        {"before": QUESTION, "pieces": pieces, "skip": skip, "mark": "\n", "ask": ("+",), "place": place}
    )


def reading(reader: SGLangBackend | LocalBackend, asked: Sheet, halt: Halt | None = None) -> Reading:
    tokens = reader.sheet_tokens(asked)
    return Reading(id=f"read:{next(NUMBERS):06};", sheet=asked, prompt_tokens=tokens, halt=halt or Halt())


@pytest.fixture(scope="module")
def local() -> LocalBackend:
    return LocalBackend(REWARD)


@pytest.mark.parametrize("asked", [sheet(STEPS), sheet(STEPS, skip=2), sheet(STEPS, place="mark")])
def test_a_sheet_is_read_as_the_local_engine_reads_it(reward: Server, local: LocalBackend, asked: Sheet) -> None:
    served = connected([reward.url], lambda backend: backend.read(reading(backend, asked)))
    here = asyncio.run(local.read(reading(local, asked)))
    assert served.pieces is not None
    assert here.pieces is not None
    assert [len(looks) for looks in served.pieces] == [len(looks) for looks in here.pieces]
    for ours, theirs in zip(served.pieces, here.pieces, strict=True):
        for look, other in zip(ours, theirs, strict=True):
            assert look == pytest.approx(other, abs=1e-3)


def test_what_was_read_for_an_earlier_step_is_not_read_again(reward: Server) -> None:
    async def two(backend: SGLangBackend) -> tuple[Verdicts, Verdicts]:
        steps = tuple(f"{step}{next(NUMBERS)}" for step in STEPS)
        first = await backend.read(reading(backend, sheet(steps[:3])))
        return first, await backend.read(reading(backend, sheet(steps, skip=3)))

    first, second = connected([reward.url], two)
    assert second.usage.cached_tokens >= first.usage.prompt_tokens - 1


def test_sheets_of_one_beginning_that_come_together_read_it_once(reward: Server) -> None:
    async def many(backend: SGLangBackend) -> list[Verdicts]:
        common = (f"fresh{next(NUMBERS)}" * 6,)
        sheets = [sheet((*common, f"y={i}")) for i in range(8)]
        return await asyncio.gather(*(backend.read(reading(backend, each)) for each in sheets))

    read = connected([reward.url], many)
    fresh = [each.usage.prompt_tokens - each.usage.cached_tokens for each in read]
    # The looks are at every token of the first piece too, so all but the question is read for each of them.
    assert max(fresh[1:]) < read[0].usage.prompt_tokens - 80


def test_a_halted_reading_says_nothing(reward: Server) -> None:
    halt = Halt()
    halt.set("deadline")
    said = connected([reward.url], lambda backend: backend.read(reading(backend, sheet(STEPS), halt)))
    assert said.pieces is None
    assert said.usage.prompt_tokens == 0


def test_classes_are_not_asked_of_a_model_that_writes(reward: Server) -> None:
    classes = Sheet(before=(Message(role="user", content="?"),), pieces=("1",))
    with pytest.raises(UsageError, match="this sheet asks for classes"):
        connected([reward.url], lambda backend: backend.read(reading(backend, classes)))
