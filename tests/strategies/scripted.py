"""What tests of searches share: models that write a known tree of steps, verifiers that go by the text, and readers of
a trace."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
from pydantic import PrivateAttr, SerializeAsAny

from strategies import ABMCTS, DVTS, ETS, Beam, BestFirst, Particles, Rebase
from strategies.tree import StepSearch
from tests.fakes import PROBLEM, solved
from tts.backends.base import Request
from tts.backends.fake import FakeBackend, Handler, Judge, Opinion, silent
from tts.journal import Held, MemoryJournal, Record, Settled
from tts.run import Run
from tts.strategy import Strategy, Verifier
from tts.trace import FINISHER
from tts.types import Answer, Budget, Call, Need, Path, Problem, Result, Role, Score, Selection, Sheet

PLENTY = Budget(tokens=1_000_000)
LETTERS = "abcdefghijklmnop"

SEARCHES: list[StepSearch] = [
    Beam(n=8),
    DVTS(n=8),
    Rebase(n=8),
    ETS(n=8),
    Particles(n=8),
    BestFirst(n=8),
    ABMCTS(n=8),
]


SEEDS = pytest.mark.parametrize("seed", range(4))
every_search = pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)


def place(request: Request) -> int:
    """Which call of its batch this is."""
    return int(request.id.rstrip(";").partition("#")[0].rpartition(".")[2])


def word(path: Path) -> str:
    """What a path says, without the ends of its steps."""
    return path.text.replace("\n\n", "")


def lettered(letters: str = LETTERS, length: int = 3) -> Handler:
    """Each step is a letter, the one that stands at the call's place in its batch; the last step answers with the
    letter's number."""

    def write(request: Request) -> str:
        letter = letters[place(request) % len(letters)]
        last = len(request.path.steps) == length - 1
        return f"{letter} \\boxed{{{LETTERS.index(letter)}}}" if last else f"{letter}\n\n"

    return write


def wandering(request: Request) -> str:
    """A random word a step, and an answer after two to five of them."""
    draw, taken = random.Random(request.seed), len(request.path.steps)
    if taken >= 4 or (taken and draw.random() < 0.3):
        return f"{draw.random()} \\boxed{{{draw.choice([41, 42, 43])}}}"
    return f"{draw.random()}\n\n"


class ByText(Verifier):
    """The score that a table has for what a path says; for other texts a random one between `low` and `high`, the same
    for the same text, or none where `low` is None."""

    name: ClassVar[str] = "by_text"
    when: ClassVar[str] = "In tests."

    table: Mapping[str, float] = {}
    low: float | None = 0.0
    high: float = 1.0

    async def score(self, paths: Sequence[Path], run: Run) -> list[Score | None]:
        return [None if (value := self.value(path)) is None else Score(value=value, by=self.name) for path in paths]

    def value(self, path: Path) -> float | None:
        if word(path) in self.table:
            return self.table[word(path)]
        return None if self.low is None else random.Random(path.text).uniform(self.low, self.high)


class NowAndThen(Verifier):
    """None for some texts: a third of them, by chance."""

    name: ClassVar[str] = "now_and_then"
    when: ClassVar[str] = "In tests."

    async def score(self, paths: Sequence[Path], run: Run) -> list[Score | None]:
        draws = [random.Random(path.text) for path in paths]
        return [None if draw.random() < 1 / 3 else Score(value=draw.random(), by=self.name) for draw in draws]


class Asking(Verifier):
    """Has every text read by a model, and takes the chance that it gives."""

    name: ClassVar[str] = "asking"
    when: ClassVar[str] = "In tests."
    reads: ClassVar[Role | None] = "verifier"

    async def score(self, paths: Sequence[Path], run: Run) -> list[Score | None]:
        verdicts = await run.read([Sheet(before=".", pieces=(path.text,), ask=("+",)) for path in paths])
        return [Score(value=each.pieces[0][0][0], by=self.name) if each and each.pieces else None for each in verdicts]


def asked(judge: Judge) -> dict[str, Any]:
    """What makes a job's verifier ask that judge."""
    return {"scorer": Asking(), "readers": {"verifier": FakeBackend(silent, judge=judge)}}


def opinion(value: float) -> Opinion:
    return Opinion(pieces=(((value,),),))


class Heard(Strategy):
    """Another strategy, whose answers are remembered."""

    name: ClassVar[str] = "heard"
    when: ClassVar[str] = "In tests."

    inner: SerializeAsAny[StepSearch]
    _answers: list[Answer] = PrivateAttr(default_factory=list)

    @property
    def needs(self) -> frozenset[Need]:
        return self.inner.needs

    @property
    def answers(self) -> list[Answer]:
        return self._answers

    async def search(self, problem: Problem, run: Run) -> AsyncGenerator[Answer, None]:
        async for answer in self.inner.search(problem, run):
            self._answers.append(answer)
            yield answer


def searched(strategy: Strategy, handler: Handler = wandering, **options: Any) -> tuple[Result, list[Record]]:
    """The result and the journal of a search."""
    journal = MemoryJournal()
    options = {"scorer": ByText(), "budget": PLENTY, **options}
    result = solved(strategy, backend=FakeBackend(handler), journal=journal, **options)
    return result, journal.records


def batches(result: Result) -> list[list[Call]]:
    """The policy's calls, by the batches in which they were asked for; what was forced at the end is not among them."""
    found: dict[str, list[Call]] = {}
    for call in result.trace.calls:
        if call.role == "policy" and not call.key.startswith(FINISHER):
            found.setdefault(call.key.rpartition(".")[0], []).append(call)
    return list(found.values())


def scores(selection: Selection) -> dict[str, float]:
    """Of the candidates that have one."""
    return {key: score for key, score in zip(selection.candidates, selection.scores, strict=True) if score is not None}


def growths(result: Result) -> list[tuple[Selection, Counter[str]]]:
    """Each choice of a search in rounds, and how often its candidates were continued next."""
    grown = [Counter(call.parent or "" for call in batch) for batch in batches(result)[1:]]
    return list(zip(result.trace.selections, grown, strict=False))


def ended(records: Sequence[Record]) -> list[str]:
    """The keys of the search's calls that the model ended."""
    return [key for key, path in paths_of(records).items() if path.finished]


def asks(records: Sequence[Record]) -> list[tuple[str, str, str | None]]:
    """Key, request and parent of every call."""
    return [(each.key, each.request, each.parent) for each in records if isinstance(each, Held)]


def paths_of(records: Sequence[Record]) -> dict[str, Path]:
    """By the policy's calls, the paths that they brought."""
    parents = {each.key: each.parent for each in records if isinstance(each, Held)}
    paths: dict[str, Path] = {}
    for each in records:
        if isinstance(each, Settled) and each.role == "policy" and each.segments and not each.key.startswith(FINISHER):
            parent = parents[each.key]
            base = paths[parent] if parent else Path.of(PROBLEM)
            paths[each.key] = base.extend(each.segments[-1], each.key)
    return paths


def depth_of(result: Result) -> int:
    """The most steps of a path."""
    depths: dict[str | None, int] = {None: 0}
    for batch in batches(result):
        for call in batch:
            depths[call.key] = depths[call.parent] + 1
    return max(depths.values())
