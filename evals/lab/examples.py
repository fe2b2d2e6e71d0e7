"""What lab models are shown: token ids, and the ids they should answer with."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import ClassVar, NamedTuple

from evals.lab import chain, countdown
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
    """A solution as a reward model reads it: the last step too ends with the tag, where its verdict is due."""
    text = "".join(steps)
    return [BOS_ID, *_CHAIN.encode(prompt + text), *([TAG] if text and not text.endswith(STEP_TAG) else [])]


@dataclass(frozen=True)
class Policies:
    """A task's problems without end."""

    settings: PolicySettings
    weights: ClassVar[Mapping[int, float]] = {}
    """What an id counts where it is not 1."""

    def draw(self, rng: random.Random, count: int, progress: float) -> Iterator[Example]:
        """Examples for a training that far on its way (0 to 1)."""
        curriculum = min(1.0, progress / self.settings.curriculum) if self.settings.curriculum else 1.0
        for _ in range(count):
            yield policy_example(ALPHABETS[self.settings.task], *TASKS[self.settings.task](rng, curriculum))


class Corrections:
    """A task's solutions with errors in them. What is learnt at each symbol is the one that should stand there, or `+`
    where it does; and at a line's end `-` if anything in it is wrong.

    A verdict alone, be it exact, hardly teaches a small network to compare what it reads with what it would have
    written itself. To say what should have been written, it has to.
    """

    weights: ClassVar[Mapping[int, float]] = {GOOD: 0.1}
    """Most symbols are right."""

    def __init__(self, settings: CorrectorSettings) -> None:
        self._settings = settings

    def draw(self, rng: random.Random, count: int, progress: float) -> Iterator[Example]:
        """Examples for a training that far on its way (0 to 1)."""
        curriculum = min(1.0, progress / self._settings.curriculum) if self._settings.curriculum else 1.0
        for _ in range(count):
            prompt, solution = chain.training_pair(rng, curriculum)
            yield self._with_errors(rng, prompt, chain.steps_of(solution))

    def _with_errors(self, rng: random.Random, prompt: str, steps: Sequence[str]) -> Example:
        ids = tagged(prompt, [])
        targets = [IGNORED] * len(ids)
        names = sorted(_NAMES.intersection(ids))
        forgotten: set[int] = set()
        for step in steps:
            right = tagged("", [step])[1:-1]
            if right[0] in forgotten:
                continue  # its equation is never written either
            kept = len(right)
            if _LIST_ENDS in right[2:] and rng.random() < self._settings.shortened:
                kept = max(2, kept - rng.randint(1, 2))
                forgotten.update(right[kept - 1 : -1])
            written = [*right[: kept - 1], right[-1]]
            written = [self._misread(rng, each, names) for each in written]
            verdicts = [GOOD if a == b else b for a, b in zip(written, right, strict=False)]
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


class Rewards:
    """Labelled solutions. Both verdicts count as much in all, though `+` is many times as frequent: `weights`."""

    def __init__(self, settings: RewardSettings) -> None:
        rollouts = read_rollouts(MODELS / settings.rollouts)
        labels = [_labels(rollout) for rollout in rollouts]
        rng = random.Random(f"labels/{settings.seed}")
        labels = [[not y if rng.random() < settings.flipped else y for y in each] for each in labels]
        if settings.shuffled:
            mixed = [y for each in labels for y in each]
            rng.shuffle(mixed)
            labels = [[mixed.pop() for _ in each] for each in labels]
        self._known = list(zip(rollouts, labels, strict=True))
        good = sum(sum(each) for each in labels)
        bad = sum(len(each) for each in labels) - good
        self.weights = {GOOD: (good + bad) / (2 * max(1, good)), BAD: (good + bad) / (2 * max(1, bad))}

    def draw(self, rng: random.Random, count: int, progress: float) -> Iterator[Example]:
        """Random solutions with a verdict after each step."""
        for rollout, labels in rng.choices(self._known, k=count):
            ids = tagged(rollout.prompt, rollout.steps[: len(labels)])
            read, verdicts = len(tagged(rollout.prompt, [])), iter(labels)
            wanted = [(GOOD if next(verdicts) else BAD) if i == TAG else IGNORED for i in ids[read:]]
            yield Example(ids, [*[IGNORED] * read, *wanted])


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
