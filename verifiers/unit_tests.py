"""The public tests that a program passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from tts.answers import Code, Runner
from tts.errors import UsageError
from tts.run import Run
from tts.strategy import Verifier
from tts.types import Need, Path, Score

SECONDS = 10.0
"""For one test. A sandbox has long given up on a program by then, so that who goes on is the sandbox."""


class UnitTests(Verifier):
    """The share of the problem's public tests that the program passes, each of them in a sandbox of its own: what
    ends one says nothing about the others.

    A path without a program has no score, nor has any where the problem states no tests or the sandbox failed.
    """

    name: ClassVar[str] = "unit_tests"
    when: ClassVar[str] = "When programs are asked for and the problem states tests; it needs a sandbox."

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"runner"})

    async def score(self, paths: Sequence[Path], run: Run) -> list[Score | None]:
        kind = run.problem.kind
        if not isinstance(kind, Code) or not kind.tests:
            return [None] * len(paths)
        programs = [kind.extract(path.text, path.finished) for path in paths]
        distinct = [program for program in dict.fromkeys(programs) if program is not None]
        bench = _Bench(kind.tests, run.runner)
        counts = await run.gather(*(partial(_passed, bench, program) for program in distinct))
        passed = dict(zip(distinct, counts, strict=True))
        shares = [None if program is None else _share(passed[program], kind) for program in programs]
        return [None if share is None else Score(value=share, by=self.name) for share in shares]


@dataclass(frozen=True)
class _Bench:
    """Where programs are tested. It is known in journals by its tests alone: who replays one has no sandbox."""

    tests: tuple[str, ...]
    runner: Runner | None = field(repr=False)

    def __call__(self, program: str) -> int | None:
        """How many tests a program passes; None where that could not be found out."""
        assert self.runner is not None, "what is not in the journal needs a sandbox"
        try:
            return sum(self.runner(program, test) is not None for test in self.tests)
        except UsageError:
            return None


async def _passed(bench: _Bench, program: str, run: Run) -> int | None:
    return await run.compute(bench, program, seconds=SECONDS * len(bench.tests))


def _share(passed: int | None, kind: Code) -> float | None:
    return None if passed is None else passed / len(kind.tests)
