"""`chain`: follow definitions back from what is asked, then compute forward. The lab's primary task.

A problem defines named quantities in shuffled order, modulo 23, and asks for three of them:

    d=a-b
    c=b*2
    z=9+c
    a=4+9
    b=a+5
    e=3*7
    c,d,e?

A solution takes the queries in turn. It first lists the quantities it still needs, from the query back, then
computes them forward, one equation a line, and ends with the three values:

    cba:
    a=4+9=4+9=13
    b=a+5=13+5=18
    c=b*2=18*2=13
    d:
    d=a-b=13-18=18
    e:
    e=3*7=3*7=21
    =13,18,21

About 30 % of the definitions are needed by no query. The answer cannot be checked from the prompt without solving
the problem, so selection has to rely on votes, confidence or a reward model. The task is in the spirit of iGSM (Ye
et al. 2024, "Physics of Language Models: Part 2.1"), cut down to what a network of a few million weights can learn.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from evals.lab.splits import drawn
from tts.answers import AnswerKind, register

MODULUS = 23
QUERIES = 3
NAMES = "abcdefghijklmnopqrstuvwxyz"
FEWEST_OPERATIONS, MOST_OPERATIONS = 3, 14
"""Of the problems that models learn from."""
_DEFINED, _ASKED = re.compile(r"([a-z])=([a-z]|\d+)([-+*])([a-z]|\d+)"), re.compile(r"[a-z](,[a-z])*\?")
_STATED = re.compile(r"(?:^|\n)=(\d+(?:,\d+)*)\s*$")
BRANCHING = 0.1
"""How often both operands are quantities of their own, so that one of them has to wait."""
_DISTRACTORS = 0.3
_REFER = 0.4
"""How often an operand that may be anything is an earlier quantity, and not a number."""

Definition = tuple[str, str, str]
"""Left operand, sign, right operand."""


@dataclass(frozen=True)
class Chain:
    """One problem: definitions by name, in the order they are printed, and the names asked for.

    Operands are written as in the prompt: a name or a number.
    """

    definitions: Mapping[str, Definition]
    queries: tuple[str, ...]

    @property
    def prompt(self) -> str:
        lines = [f"{name}={left}{sign}{right}" for name, (left, sign, right) in self.definitions.items()]
        return "\n".join([*lines, ",".join(self.queries) + "?"])

    @cached_property
    def orders(self) -> list[list[str]]:
        """For each query, what has to be computed for it, in order; nothing twice."""
        done: set[str] = set()
        return [self.order(query, done) for query in self.queries]

    def order(self, name: str, done: set[str]) -> list[str]:
        """What has to be computed for one quantity, in order, `done` excepted, to which it is added."""
        found: list[str] = []
        self._visit(name, done, found)
        return found

    @cached_property
    def values(self) -> dict[str, str]:
        """The value of every quantity that is needed."""
        values: dict[str, str] = {}
        for order in self.orders:
            for name in order:
                left, sign, right = self.definitions[name]
                values[name] = compute(*(values.get(x, x) for x in (left, sign, right)))
        return values

    @property
    def operations(self) -> int:
        """How many equations a solution needs: the measure of difficulty."""
        return len(self.values)

    @cached_property
    def steps(self) -> list[str]:
        """The solution's lines, each with its line end; the last one states the answer."""
        lines = []
        for order in self.orders:
            lines.append("".join(reversed(order)) + ":\n")
            lines += [self.equation(name) + "\n" for name in order]
        return [*lines, f"={self.answer}"]

    @property
    def answer(self) -> str:
        return ",".join(self.values[query] for query in self.queries)

    @property
    def key(self) -> str:
        """The problem without its distractors and the names it happened to get: the same key, the same problem."""
        place = {name: f"#{i}" for i, name in enumerate(self.values)}
        parts = [[place.get(x, x) for x in self.definitions[name]] for name in place]
        return ";".join("".join(part) for part in parts) + "?" + ",".join(place[query] for query in self.queries)

    def equation(self, name: str) -> str:
        """The line that computes a needed quantity."""
        left, sign, right = self.definitions[name]
        read = [self.values.get(x, x) for x in (left, right)]
        return f"{name}={left}{sign}{right}={read[0]}{sign}{read[1]}={self.values[name]}"

    def _visit(self, name: str, done: set[str], order: list[str]) -> None:
        if name in done:
            return
        done.add(name)
        left, _, right = self.definitions[name]
        for operand in (right, left):
            if operand in self.definitions:
                self._visit(operand, done, order)
        order.append(name)


@register
class Values(AnswerKind):
    """The last line's values, such as `13,18,21`; a line counts once the model has ended after it."""

    name: ClassVar[str] = "chain"
    finisher: ClassVar[str] = "\n="

    def find(self, text: str, finished: bool) -> str | None:
        stated = _STATED.search(text) if finished else None
        return stated[1] if stated else None


def read(prompt: str) -> Chain:
    """The problem that a prompt states."""
    *lines, asked = prompt.split("\n")
    defined = [_DEFINED.fullmatch(line) for line in lines]
    if not all(defined) or not _ASKED.fullmatch(asked):
        raise ValueError(f"no chain problem: {prompt!r}")
    return Chain({m[1]: (m[2], m[3], m[4]) for m in defined if m}, tuple(asked[:-1].split(",")))


def steps_of(solution: str) -> list[str]:
    """A solution's lines, each but the last with its line end."""
    return solution.splitlines(keepends=True)


def judge(problem: Chain, solution: str) -> list[bool]:
    """Whether each line of a solution is right: the oracle, which a policy's own lines have to convince.

    A list of quantities is right if it begins with a query and, read backwards, never needs what is not there yet; an
    equation if it is the definition, with the operands' true values; the last line if it is the answer.
    """
    known: set[str] = set()
    verdicts = []
    for line in solution.removesuffix("\n").split("\n"):
        if line.startswith("="):
            verdicts.append(line == f"={problem.answer}")
        elif line.endswith(":"):
            verdicts.append(_computable(problem, line[:-1], known))
        else:
            name = line[:1]
            verdicts.append(name in problem.values and line == problem.equation(name))
            known.add(name)
    return verdicts


def _computable(problem: Chain, names: str, known: set[str]) -> bool:
    have = set(known)
    for name in reversed(names):
        left, _, right = problem.definitions.get(name, ("?", "?", "?"))
        if not all(x in have or x.isdecimal() for x in (left, right)):
            return False
        have.add(name)
    return names[:1] in problem.queries


def compute(left: str, sign: str, right: str) -> str:
    """One operation modulo 23, on numbers as they are written."""
    one, other = int(left), int(right)
    return str({"+": one + other, "-": one - other, "*": one * other}[sign] % MODULUS)


def generate(rng: random.Random, operations: int, branching: float = BRANCHING) -> Chain:
    """A random problem whose solution takes that many equations."""
    names = list(NAMES)
    rng.shuffle(names)
    made = _Maker(rng, names, branching)
    queries = [made.grow(size) for size in _parts(rng, operations, QUERIES)]
    for _ in range(round(operations * _DISTRACTORS / (1 - _DISTRACTORS))):
        made.define(made.operand(), made.operand())
    lines = list(made.definitions.items())
    rng.shuffle(lines)
    return Chain(dict(lines), tuple(queries))


class _Maker:
    def __init__(self, rng: random.Random, names: list[str], branching: float) -> None:
        self.rng, self.names, self.branching = rng, names, branching
        self.definitions: dict[str, Definition] = {}

    def grow(self, size: int) -> str:
        """A quantity for which that many new ones, itself included, have to be computed."""
        left, right = self.operand(), self.operand()
        if size >= 3 and self.rng.random() < self.branching:
            deep = self.rng.randrange(1, size - 1)
            right = self.grow(deep)
            left = self.grow(size - 1 - deep)
        elif size > 1:
            left = self.grow(size - 1)
            right = self.operand()
        return self.define(left, right)

    def operand(self) -> str:
        if self.definitions and self.rng.random() < _REFER:
            return self.rng.choice(list(self.definitions))
        return str(self.rng.randrange(1, MODULUS))

    def define(self, left: str, right: str) -> str:
        while left == right and left in self.definitions:
            right = self.operand()
        name = self.names.pop()
        self.definitions[name] = (left, self.rng.choice("+-*"), right)
        return name


def _parts(rng: random.Random, total: int, count: int) -> list[int]:
    """`total` as a sum of `count` positive numbers, every such sum equally likely."""
    cuts = sorted(rng.sample(range(1, total), count - 1))
    return [high - low for low, high in zip([0, *cuts], [*cuts, total], strict=True)]


def training_pair(rng: random.Random, progress: float) -> tuple[str, str]:
    """A prompt and its solution for a policy `progress` (0 to 1) of the way through its curriculum."""
    most = FEWEST_OPERATIONS + round(progress * (MOST_OPERATIONS - FEWEST_OPERATIONS))
    operations = rng.randint(FEWEST_OPERATIONS, max(most, FEWEST_OPERATIONS + 1))
    problem = drawn("train", rng, lambda r: generate(r, operations))
    return problem.prompt + "\n", "".join(problem.steps)
