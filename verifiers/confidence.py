"""The model's own confidence: free, and better than chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tts.run import Run
from tts.selection import MODEL_CONFIDENCE
from tts.strategy import Verifier
from tts.types import Need, Path, Score, Step


class Confidence(Verifier):
    """How sure the model was of what it wrote, over all generated tokens of a path:

    * `mean_logprob`: exp of the mean log-probability, the geometric mean of the tokens' probabilities;
    * `self_certainty`: the mean of KL(uniform || p) over positions (Kang et al. 2025, section 3.2), which needs
      a backend that sees the full distribution.
    """

    name: ClassVar[str] = MODEL_CONFIDENCE
    when: ClassVar[str] = "When there is no other verifier: it costs nothing and needs only log-probabilities."

    measure: Annotated[
        Literal["mean_logprob", "self_certainty"], Field(description="what to average over the tokens")
    ] = "mean_logprob"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"logprobs"} if self.measure == "mean_logprob" else {"self_certainty"})

    async def score(self, paths: Sequence[Path], run: Run) -> list[Score | None]:
        values = map(_MEASURES[self.measure], paths)
        return [None if value is None else Score(value=value, by=self.name) for value in values]


def geometric_mean_probability(path: Path) -> float | None:
    """In (0, 1]; None where some log-probability is not known."""
    mean = _mean(path, lambda step: step.mean_logprob)
    return None if mean is None else math.exp(mean)


def self_certainty(path: Path) -> float | None:
    """In nats, from 0 for a uniform distribution up; None where some position does not know its own."""
    # A KL divergence is never negative; rounding may say otherwise.
    mean = _mean(path, lambda step: step.self_certainty)
    return None if mean is None else max(0.0, mean)


def _mean(path: Path, of: Callable[[Step], float | None]) -> float | None:
    """The mean over generated tokens; None where some step does not know its own."""
    total, tokens = 0.0, 0
    for step in path.steps:
        if made := step.tokens:
            value = of(step)
            if value is None:
                return None
            total += value * made
            tokens += made
    return total / tokens if tokens else None


_MEASURES: Mapping[str, Callable[[Path], float | None]] = {
    "mean_logprob": geometric_mean_probability,
    "self_certainty": self_certainty,
}
