"""`countdown`: reach a target from three to five numbers, each used once. The lab's verifiable task.

    3 8 14 5:81

A solution combines two of the numbers that are left, one equation a line, and writes down what is left then:

    14-5=9:3 8 9
    9*3=27:8 27
    ...

Anyone can check an answer, so the task serves whatever relies on that: coverage, selection by a checker, allocation
with a sound verifier, sequential against parallel search. The answer is the list of equations and never the number:
every sample claims the target, so votes on the number would all be the same.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from evals.lab.splits import drawn
from tts.answers import AnswerKind, register

FEWEST, MOST = 3, 5
"""Numbers to combine."""
LARGEST_NUMBER, LARGEST_RESULT = 25, 999
TARGETS = range(10, 100)
_EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")
_PROMPT = re.compile(r"(\d+(?: \d+)*):(\d+)")

Equation = tuple[int, str, int]


@dataclass(frozen=True)
class Countdown:
    """One problem, and one way to solve it."""

    numbers: tuple[int, ...]
    target: int
    solution: tuple[Equation, ...]

    @property
    def prompt(self) -> str:
        return f"{' '.join(map(str, self.numbers))}:{self.target}"

    @property
    def steps(self) -> list[str]:
        """The solution's lines, each but the last with its line end."""
        left, lines = list(self.numbers), []
        for one, sign, other in self.solution:
            result = compute(one, sign, other)
            assert result is not None
            left.remove(one)
            left.remove(other)
            left.append(result)
            lines.append(f"{one}{sign}{other}={result}:{' '.join(map(str, left))}")
        return [line + "\n" for line in lines[:-1]] + [lines[-1]]

    @property
    def key(self) -> str:
        """The problem, whatever the order of its numbers: the same key, the same problem."""
        return f"{' '.join(map(str, sorted(self.numbers)))}:{self.target}"


@register
class Equations(AnswerKind):
    """The equations that lead to the target, in a canonical form: order of independent lines and of the operands of
    `+` and `*` do not matter."""

    name: ClassVar[str] = "countdown"
    finisher: ClassVar[str] = "\n"

    def find(self, text: str, finished: bool) -> str | None:
        """Every equation of a finished solution."""
        found = _EQUATION.findall(text) if finished else []
        return canonical([(int(a), sign, int(b)) for a, sign, b, _ in found]) if found else None


def canonical(equations: list[Equation]) -> str:
    """`3+5;8*9`, sorted; operands of commutative operations the smaller first."""
    ordered = [(min(a, b), sign, max(a, b)) if sign in "+*" else (a, sign, b) for a, sign, b in equations]
    return ";".join(f"{a}{sign}{b}" for a, sign, b in sorted(ordered))


def compute(one: int, sign: str, other: int) -> int | None:
    """The result, a whole number of at least 1; None where it would be something else, or too large."""
    if sign == "/":
        return one // other if other and one % other == 0 else None
    result = {"+": one + other, "-": one - other, "*": one * other}[sign]
    return result if 1 <= result <= LARGEST_RESULT else None


def solves(prompt: str, answer: str) -> bool:
    """Whether the canonical equations use each number of the problem once and end at its target.

    Sorted equations may come before what they need, so each round takes those whose operands are there.
    """
    numbers, target = read(prompt)
    have = Counter(numbers)
    todo = [_EQUATION.fullmatch(f"{part}=0") for part in answer.split(";")]
    if not all(todo) or len(todo) != len(numbers) - 1:
        return False
    return _reaches(have, [(int(m[1]), m[2], int(m[3])) for m in todo if m], target)


def _reaches(have: Counter[int], todo: list[Equation], target: int) -> bool:
    if not todo:
        return +have == Counter([target])
    for i, (one, sign, other) in enumerate(todo):
        result = compute(one, sign, other)
        if result is None or not Counter([one, other]) <= have:
            continue
        if _reaches(have - Counter([one, other]) + Counter([result]), todo[:i] + todo[i + 1 :], target):
            return True
    return False


def read(prompt: str) -> tuple[tuple[int, ...], int]:
    """The numbers and the target of a prompt."""
    match = _PROMPT.fullmatch(prompt)
    if match is None:
        raise ValueError(f"no countdown problem: {prompt!r}")
    return tuple(map(int, match[1].split())), int(match[2])


def generate(rng: random.Random, count: int) -> Countdown:
    """A random problem with that many numbers, found by combining them at random."""
    while True:
        numbers = [rng.randint(1, LARGEST_NUMBER) for _ in range(count)]
        left, solution = list(numbers), list[Equation]()
        while len(left) > 1:
            one, other = rng.sample(left, 2)
            sign = rng.choice("+-*/")
            result = compute(one, sign, other)
            if result is None or (other == 1 and sign in "*/"):
                continue
            left.remove(one)
            left.remove(other)
            left.append(result)
            solution.append((one, sign, other))
        if left[0] in TARGETS:
            return Countdown(tuple(numbers), left[0], tuple(solution))


def training_pair(rng: random.Random, progress: float) -> tuple[str, str]:
    """A prompt and its solution for a policy `progress` (0 to 1) of the way through its curriculum."""
    count = rng.randint(FEWEST, MOST if progress > 0.3 else MOST - 1)
    problem = drawn("train", rng, lambda r: generate(r, count))
    return problem.prompt + "\n", "".join(problem.steps)
