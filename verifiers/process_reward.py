"""Process reward models: how likely each step of a solution is right, read off one forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tts.errors import UsageError, counted
from tts.run import Run
from tts.strategy import Verifier
from tts.types import Looks, Message, Path, Problem, Role, Score, Sheet, Usage, Verdicts
from verifiers.aggregation import AGGREGATIONS, Aggregation

SHEPHERD_TAG = "ки"
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."

NOTHING_NEW = Verdicts(pieces=(), usage=Usage.none())

Conversation = tuple[Message, ...]
Name = Literal["lab", "math_shepherd", "rlhflow", "qwen"]


@dataclass(frozen=True)
class Form:
    """How a family of models wants a solution written down, and what it says of a step."""

    sheet: Callable[[Conversation, tuple[str, ...], int], Sheet]
    value: Callable[[Looks], float]
    """In [0, 1]."""


class ProcessReward(Verifier):
    """Scores every step and takes the scores together: the chance that

    * `lab`: every symbol of a line is right, the product of the chances of `+` after each of them;
    * `math_shepherd`: `+` comes rather than `-` after the tag that ends a step (Wang et al. 2024, "Math-Shepherd");
    * `rlhflow`: the assistant answers `+` rather than `-` to a user who tells it the steps (Dong et al. 2024, "RLHF
      workflow", its process reward models);
    * `qwen`: the second class holds at the tag after a step (Zhang et al. 2025, "The lessons of developing process
      reward models in mathematical reasoning").

    Steps end where the problem says they do; empty ones are no steps. What a path's beginning was said to be worth is
    not asked again. The same text is read once, however many paths hold it. A path of no step has no score, nor has one
    whose reading failed or was refused.
    """

    name: ClassVar[str] = "prm"
    when: ClassVar[str] = (
        "For searches over steps, and to choose among samples where a trained reward model is at hand."
    )
    reads: ClassVar[Role | None] = "verifier"

    model: Annotated[str, Field(description="the reward model: a backend, as --backend names it")] = ""
    form: Annotated[Name, Field(description="the family that it is of")] = "qwen"
    how: Annotated[Aggregation, Field(description="how the scores of steps become one: choose it on dev")] = "min"

    @property
    def manner(self) -> str:
        return f" with form={self.form} (others: {', '.join(name for name in FORMS if name != self.form)})"

    def trial(self, problem: Problem) -> Sheet | None:
        return self._sheet(Path.of(problem).append("1"), problem.step_end)

    async def score(self, paths: Sequence[Path], run: Run) -> list[Score | None]:
        end = run.problem.step_end
        sheets = [self._sheet(path, end) for path in paths]
        read = iter(await run.read([sheet for sheet in sheets if sheet], model="verifier"))
        return [
            self._score(path, next(read) if sheet else NOTHING_NEW, end)
            for path, sheet in zip(paths, sheets, strict=True)
        ]

    def _sheet(self, path: Path, end: str) -> Sheet | None:
        """What is to be read; None where nothing is new."""
        pieces = pieces_of(path.text, end)
        if len(path.judged) >= len(pieces):
            return None
        return FORMS[self.form].sheet(conversation(path), pieces, len(path.judged))

    def _score(self, path: Path, verdicts: Verdicts | None, end: str) -> Score | None:
        if verdicts is None:
            return None
        steps = [*path.judged, *map(FORMS[self.form].value, verdicts.pieces or ())]
        if not steps:
            return None
        # A step that has not ended may go on, and is judged again then.
        ended = sum(1 for piece in path.text.split(end)[:-1] if piece.strip())
        return Score(value=AGGREGATIONS[self.how](steps), by=self.name, steps=tuple(steps[:ended]))


def pieces_of(text: str, end: str) -> tuple[str, ...]:
    """A solution's steps, without what ends them."""
    return tuple(piece for piece in text.split(end) if piece.strip())


def conversation(path: Path) -> Conversation:
    """The messages that a path begins with."""
    messages = tuple(part for part in path.start if isinstance(part, Message))
    if len(messages) < len(path.start) or not messages:
        raise UsageError("a reward model reads conversations, and this problem begins with token ids")
    return messages


def chance(looks: Looks) -> float:
    """Of the first of the two tokens asked about at the one place looked at: softmax{+, -}."""
    ((good, bad),) = looks
    return 1.0 / (1.0 + math.exp(min(700.0, bad - good)))


def second_class(looks: Looks) -> float:
    """Of the second of two classes, at the one place looked at."""
    (logits,) = looks
    if len(logits) != 2:
        raise UsageError(f"the reward model says {counted(len(logits), 'number')}, and two are wanted: wrong and right")
    bad, good = logits
    return chance(((good, bad),))


def product(looks: Looks) -> float:
    """Of the chances of the one token asked about, at all places."""
    return min(1.0, math.exp(math.fsum(look[0] for look in looks)))


def _lab(before: Conversation, pieces: tuple[str, ...], skip: int) -> Sheet:
    return Sheet(before=before, pieces=pieces, skip=skip, mark="\n", ask=("+",), place="token")


def _math_shepherd(before: Conversation, pieces: tuple[str, ...], skip: int) -> Sheet:
    """`question step ки\\nstep ки`. The tag is a word like others, so it is taken out of everybody's text."""
    first, *others = (_untagged(piece).strip() for piece in pieces)
    written = (first, *(f"\n{piece}" for piece in others))
    question = _untagged(_question(before))
    return Sheet(before=f"{question} ", pieces=written, skip=skip, mark=f" {SHEPHERD_TAG}", ask=("+", "-"))


def _untagged(text: str) -> str:
    return text.replace(SHEPHERD_TAG, " ".join(SHEPHERD_TAG))


def _rlhflow(before: Conversation, pieces: tuple[str, ...], skip: int) -> Sheet:
    """The question stands before the first step, in the same turn."""
    first, *others = map(str.strip, pieces)
    written = (f"{_question(before)} {first}", *others)
    return Sheet(before=(), pieces=written, skip=skip, mark="+", ask=("+", "-"), place="piece", turns=True)


def _qwen(before: Conversation, pieces: tuple[str, ...], skip: int) -> Sheet:
    start = before if before[0].role == "system" else (Message(role="system", content=BOXED), *before)
    return Sheet(before=start, pieces=tuple(map(str.strip, pieces)), skip=skip, mark="<extra_0>")


def _question(before: Conversation) -> str:
    for message in reversed(before):
        if message.role == "user":
            return message.content
    raise UsageError("this form of reward model reads a user's question, and nobody asks one here")


FORMS: Mapping[Name, Form] = {
    "lab": Form(_lab, product),
    "math_shepherd": Form(_math_shepherd, chance),
    "rlhflow": Form(_rlhflow, chance),
    "qwen": Form(_qwen, second_class),
}
