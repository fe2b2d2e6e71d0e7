"""What lab models are shown, token ids and the ids they should answer with, and what a wrong answer costs them."""

from __future__ import annotations

import json
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


class Rollout(NamedTuple):
    """A solution's steps, and which of them Monte Carlo found to be the first without a way to the answer: from that
    one on, no label is known."""

    prompt: str
    steps: list[str]
    first_error: int | None


def policy_example(alphabet: Alphabet, prompt: str, solution: str) -> Example:
    """The solution is learnt, the prompt only read."""
    read, learnt = [BOS_ID, *alphabet.encode(prompt)], [*alphabet.encode(solution), EOS_ID]
    return Example([*read, *learnt], [*[IGNORED] * (len(read) - 1), *learnt, IGNORED])


def tagged(prompt: str, steps: Sequence[str]) -> list[int]:
    """A solution as a reward model reads it: the last line too is ended."""
    text = "".join(steps)
    return [BOS_ID, *_CHAIN.encode(prompt + text), *([TAG] if text and not text.endswith(STEP_TAG) else [])]


@dataclass(frozen=True)
class Policies:
    """A task's problems without end."""

    settings: PolicySettings

    def draw(self, rng: random.Random, count: int, progress: float) -> Iterator[Example]:
        """Examples for a training that far on its way (0 to 1)."""
        curriculum = min(1.0, progress / self.settings.curriculum) if self.settings.curriculum else 1.0
        for _ in range(count):
            yield policy_example(ALPHABETS[self.settings.task], *TASKS[self.settings.task](rng, curriculum))

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
        curriculum = min(1.0, progress / self._settings.curriculum) if self._settings.curriculum else 1.0
        for _ in range(count):
            prompt, solution = chain.training_pair(rng, curriculum)
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
            right = tagged("", [step])[1:-1]
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
        rollouts = read_rollouts(MODELS / settings.rollouts)
        labels = [_labels(rollout) for rollout in rollouts]
        rng = random.Random(f"labels/{settings.seed}")
        labels = [[not y if rng.random() < settings.flipped else y for y in each] for each in labels]
        mixed = [y for each in labels for y in each]
        if settings.shuffled:
            rng.shuffle(mixed)
            rest = iter(mixed)
            labels = [[next(rest) for _ in each] for each in labels]
        self._known = list(zip(rollouts, labels, strict=True))
        self._weights = [len(mixed) / (2 * max(1, mixed.count(verdict))) for verdict in (False, True)]

    def draw(self, rng: random.Random, count: int, progress: float) -> Iterator[Example]:
        """Random solutions; at every symbol, the verdict on its line."""
        for rollout, labels in rng.choices(self._known, k=count):
            ids = tagged(rollout.prompt, [])
            targets = [IGNORED] * len(ids)
            for step, good in zip(rollout.steps, labels, strict=False):
                line = tagged("", [step])[1:]
                ids += line
                targets += [GOOD if good else BAD] * len(line)
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


def read_rollouts(folder: File) -> list[Rollout]:
    """What `evals.lab.rollouts` wrote about a policy's solutions."""
    file = folder / ".training" / "rollouts.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"no rollouts of {folder.name}: python -m evals.lab.rollouts {folder}") from error
    found = sorted((json.loads(line) for line in lines), key=lambda each: each["index"])  # written as they finished
    return [Rollout(each["prompt"], each["steps"], each["first_error"]) for each in found if each["steps"]]


def _labels(rollout: Rollout) -> list[bool]:
    if rollout.first_error is None:
        return [True] * len(rollout.steps)
    return [True] * rollout.first_error + [False]
