"""What a job is, as it lies in Redis: everything that a worker needs to know, and no address of anybody's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

import evals.suites  # noqa: F401  their tasks register answer kinds of their own
from tts.types import Budget, Noun, Problem, Sampling

State = Literal["queued", "running", "done", "failed", "cancelled", "dead"]
"""`failed`: it could not be done, and why is said; `dead`: something went wrong that nobody foresaw, see the dead
letters."""
OVER: frozenset[State] = frozenset({"done", "failed", "cancelled", "dead"})


class Part(Noun):
    """A strategy or verifier by name, with its parameters."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class Spec(Noun):
    """One job. `model` is `NAME[:MODE]` of a profile; `answers` is how many distinct ones are wanted; `metadata` are
    the caller's own notes."""

    id: str
    problem: Problem
    model: str
    strategy: Part
    verifier: Part | None = None
    budget: Budget
    sampling: Sampling
    seed: NonNegativeInt = 0
    answers: Annotated[PositiveInt, Field(le=128)] = 1
    trace: str | None = None
    """Where the request that brought it stands in its trace, as W3C's `traceparent` says it."""
    metadata: dict[str, str] = Field(default_factory=dict)
