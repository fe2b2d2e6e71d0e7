"""What lab models are shown, token ids and the ids they should answer with, and what a wrong answer costs them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from evals.lab import chain, countdown
from evals.lab.chain import Chain
from evals.lab.settings import MODELS, CorrectorSettings, PolicySettings, RewardSettings
from evals.lab.tokens import ALPHABETS, BOS_ID, EOS_ID, STEP_TAG, Alphabet
from tts.errors import UsageError
from tts.lines import read_lines
from tts.types import Noun

TASKS = {"chain": chain.training_pair, "countdown": countdown.training_pair}
IGNORED = -100
_CHAIN = ALPHABETS["chain"]
GOOD, BAD, TAG = (_CHAIN.encode(symbol)[0] for symbol in ("+", "-", STEP_TAG))
_NAMES = frozenset(_CHAIN.encode(chain.NAMES))
_NUMBERS = [_CHAIN.encode(str(each))[0] for each in range(chain.MODULUS)]
_LIST_ENDS = _CHAIN.encode(":")[0]
_COMMON = 0.1
"""What a `+` counts beside a correction."""


class Example(NamedTuple):
    """Ids to read, and for each the id that should come next, or `IGNORED`."""

    ids: list[int]
    targets: list[int]


class Solution(Noun):
    """A solution's steps, and which of them Monte Carlo found to be the first without a way to the answer: from that
    one on, no label is known."""

    steps: tuple[str, ...]
    first_error: int | None

    @property
    def labels(self) -> list[bool]:
        """Whether a step is good, as far as that is known."""
        if self.first_error is None:
            return [True] * len(self.steps)
        return [True] * self.first_error + [False]


class Rollouts(Noun):
    """A training problem and a policy's different solutions to it; none where all were right or all were wrong."""

    index: int
    prompt: str
    solutions: tuple[Solution, ...]


def policy_example(alphabet: Alphabet, prompt: str, solution: str) -> Example:
    """The solution is learnt, the prompt only read."""
    read, learnt = [BOS_ID, *alphabet.encode(prompt)], [*alphabet.encode(solution), EOS_ID]
    return Example([*read, *learnt], [*[IGNORED] * (len(read) - 1), *learnt, IGNORED])


def tagged(prompt: str, steps: Sequence[str]) -> list[int]:
    """A solution as a reward model reads it: the last line too is ended."""
    return [BOS_ID, *_CHAIN.encode(prompt), *(each for step in steps for each in line(step))]


def line(step: str) -> list[int]:
    """A step's symbols and the end of its line, whether or not the step has it."""
    return [*_CHAIN.encode(step.removesuffix(STEP_TAG)), TAG]


def _hardest(progress: float, curriculum: float) -> float:
    """How hard a training's problems may be by now, 0 to 1."""
    return min(1.0, progress / curriculum) if curriculum else 1.0


@dataclass(frozen=True)
class Policies:
    """A task's problems without end."""

    settings: PolicySettings

    def draw(self, rng: random.Random, count: int, progress: float) -> Iterator[Example]:
        """Examples for a training that far on its way (0 to 1)."""
        hardest = _hardest(progress, self.settings.curriculum)
        for _ in range(count):
            yield policy_example(ALPHABETS[self.settings.task], *TASKS[self.settings.task](rng, hardest))

    def loss(self, logits: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Nats per target; [examples, longest, vocabulary] logits, [examples, longest] ids."""
        return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


class Corrections:
    """A task's solutions with errors in them. What is learnt at each symbol is the one that should stand there, or `+`
    where it does; and at a line's end `-` if anything in it is wrong.

    A verdict alone, be it exact, hardly teaches a small network to compare what it reads with what it would have
    written itself. To say what should have been written, it has to.
    """

    def __init__(self, settings: CorrectorSettings) -> None:
        self._settings = settings

    def draw(self, rng: random.Random, count: int, progress: float) -> Iterator[Example]:
        """Examples for a training that far on its way (0 to 1)."""
        hardest = _hardest(progress, self._settings.curriculum)
        for _ in range(count):
            prompt, solution = chain.training_pair(rng, hardest)
            yield self._with_errors(rng, prompt, chain.steps_of(solution))

    def loss(self, logits: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Nats per target, of which a `+` counts little: most symbols are right."""
        weights = torch.ones(logits.shape[-1])
        weights[GOOD] = _COMMON
        return cross_entropy(logits.flatten(0, 1), targets.flatten(), weights, ignore_index=IGNORED)

    def _with_errors(self, rng: random.Random, prompt: str, steps: Sequence[str]) -> Example:
        problem = chain.read(prompt.rstrip())
        ids = tagged(prompt, [])
        targets = [IGNORED] * len(ids)
        names = sorted(_NAMES.intersection(ids))
        never: set[int] = set()
        for step in steps:
            right = line(step)[:-1]
            if right[0] in never:
                continue  # a quantity that no list names is not computed either
            if right[-1] == _LIST_ENDS and rng.random() < self._settings.strayed:
                written, verdicts = self._astray(rng, problem, right, names)
                never.update(set(right) - set(written))
            else:
                written = [self._misread(rng, each, names) for each in right]
                verdicts = [GOOD if a == b else b for a, b in zip(written, right, strict=True)]
            ids += [*written, TAG]
            targets += [*verdicts, GOOD if set(verdicts) == {GOOD} else BAD]
        return Example(ids, targets)

    def _misread(self, rng: random.Random, symbol: int, names: Sequence[int]) -> int:
        """The symbol, or another one that may stand in its place; signs, which mean verdicts, are left alone."""
        if rng.random() < self._settings.replaced:
            if symbol in _NUMBERS:
                return rng.choice(_NUMBERS)
            if symbol in _NAMES or symbol == _LIST_ENDS:
                return rng.choice(names)
        return symbol

    def _astray(
        self, rng: random.Random, problem: Chain, right: Sequence[int], names: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """A list of needed quantities that is right up to some place, and there ends or follows another quantity's
        definitions; nobody knows what should stand after that place."""
        place = rng.randint(1, len(right) - 1)
        begun = [_CHAIN.tokens[each] for each in right[:place]]
        tail: list[int] = []
        if place == len(right) - 1 or rng.random() < 0.5:
            other = _CHAIN.tokens[rng.choice([each for each in names if each != right[place]])]
            listed = "".join(reversed(problem.order(other, set(begun) - {other})))
            tail = _CHAIN.encode(listed[: rng.randint(1, len(listed))])
        written = [*right[:place], *tail, _LIST_ENDS]
        return written, [*[GOOD] * place, right[place], *[IGNORED] * (len(written) - place - 1)]


class Rewards:
    """Labelled solutions. A line is taught to be as good as all its symbols, `log_good`: Monte Carlo tells which line
    goes wrong and not where in it, and a symbol can be judged by what is near. Both verdicts count as much in all,
    though right lines are many times as frequent."""

    def __init__(self, settings: RewardSettings) -> None:
        problems = read_rollouts(MODELS / settings.rollouts)
        solutions = [(problem.prompt, each) for problem in problems for each in problem.solutions]
        labels = [solution.labels for _, solution in solutions]
        rng = random.Random(f"labels/{settings.seed}")
        labels = [[not y if rng.random() < settings.flipped else y for y in each] for each in labels]
        mixed = [y for each in labels for y in each]
        if settings.shuffled:
            rng.shuffle(mixed)
            rest = iter(mixed)
            labels = [[next(rest) for _ in each] for each in labels]
        self._known = list(zip(solutions, labels, strict=True))
        self._weights = [len(mixed) / (2 * max(1, mixed.count(verdict))) for verdict in (False, True)]

    def draw(self, rng: random.Random, count: int, progress: float) -> Iterator[Example]:
        """Random solutions; at every symbol, the verdict on its line."""
        for (prompt, solution), labels in rng.choices(self._known, k=count):
            ids = tagged(prompt, [])
            targets = [IGNORED] * len(ids)
            for step, good in zip(solution.steps, labels, strict=False):
                symbols = line(step)
                ids += symbols
                targets += [GOOD if good else BAD] * len(symbols)
            yield Example(ids, targets)

    def loss(self, logits: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Nats per verdict."""
        judged = targets != IGNORED
        ends = judged & (inputs == TAG)
        said = log_good(logits, judged, ends).clamp(max=-1e-4)  # a line without any doubt has no gradient
        wrong, right = self._weights
        costs = torch.where(targets[ends] == GOOD, -said * right, -torch.log(-torch.expm1(said)) * wrong)
        return costs.mean()


def log_good(logits: Tensor, judged: Tensor, ends: Tensor) -> Tensor:
    """The log-probability that a line is right, which is that of `+` after each of its symbols. [rows, length,
    vocabulary] logits, and [rows, length] masks of the symbols to be judged and of the line ends among them; one value
    per end, row by row."""
    so_far = (logits.log_softmax(-1)[..., GOOD] * judged).cumsum(-1)
    begun = so_far.new_zeros(1)
    return torch.cat([row[end].diff(prepend=begun) for row, end in zip(so_far, ends, strict=True)])


def rollouts_of(policy: File) -> File:
    """Where `evals.lab.rollouts` writes about a policy's solutions."""
    return policy / ".training" / "rollouts.jsonl"


def read_rollouts(policy: File) -> list[Rollouts]:
    """What is known of a policy's solutions, problem by problem."""
    file = rollouts_of(policy)
    if not file.is_file():
        raise UsageError(f"no rollouts of {policy.name}: python -m evals.lab.rollouts {policy}")
    return sorted(read_lines(file, Rollouts), key=lambda each: each.index)  # written as they finished
