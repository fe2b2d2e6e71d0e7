"""Programs: those that pass the public tests, or else those that agree on what they compute."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from typing import ClassVar

from tts.answers.base import AnswerKind, register

Runner = Callable[[str, str], str | None]
"""Runs a program in isolation on one input or test and returns what it printed, None where it failed. It is
handed in by whoever owns a sandbox; nothing here ever executes a program."""

# A fence opens at the start of a line, or behind words if it names its language; it closes on a line of its own,
# for a program may itself speak of fences.
FENCE = re.compile(
    r"(?:^[ \t]*```[^`\n]*|```[\w+#.-]+[ \t\r]*)\n(.*?)(^[ \t]*```|\Z)",
    re.DOTALL | re.MULTILINE,
)


@register
class Code(AnswerKind):
    """A program in the last fenced block. `tests` are public checks that a right program survives; `inputs`
    are generated inputs on whose outputs programs may agree where no tests are known."""

    name: ClassVar[str] = "code"
    instruction: ClassVar[str] = "Answer with one complete program in a ```python code block."
    finisher: ClassVar[str] = "\n\n```python\n"
    exact_match: ClassVar[bool] = False

    tests: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def find(self, text: str, finished: bool) -> str | None:
        """The last block that was closed; a finished text may leave its last block open."""
        blocks = [body for body, end in FENCE.findall(text) if body.strip() and (end or finished)]
        return blocks[-1].strip("\n") if blocks else None

    def quick(self, one: str, other: str) -> bool | None:
        """Two programs are certainly the same when only layout and comments differ. Programs that differ
        otherwise are told apart: without running them nobody can say more."""
        return one == other or _shape(one) == _shape(other)

    def same(self, one: str, other: str) -> bool:
        return bool(self.quick(one, other))

    def behaviours(self, programs: Sequence[str], run: Runner) -> list[str | None]:
        """What each program does, as a key to group by: its outputs on `inputs`.

        With public tests only the programs that pass the most of them keep a key. None: no vote. Where there is
        nothing to run them on, programs agree only when they are the same.
        """
        if not self.tests and not self.inputs:
            return [_shape(program) for program in programs]
        outputs = [[run(program, given) for given in self.inputs] for program in programs]
        passed = [sum(run(program, test) is not None for test in self.tests) for program in programs]
        return [
            json.dumps(printed) if score == max(passed) else None
            for printed, score in zip(outputs, passed, strict=True)
        ]


def _shape(program: str) -> str:
    try:
        return ast.dump(ast.parse(program))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return program
