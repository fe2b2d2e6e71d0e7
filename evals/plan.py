"""What a run is to do: methods, budgets, seeds, problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evals.records import Cell, Unit
from evals.suites import Item, Suite
from tts.answers import Runner
from tts.backends.base import Backend
from tts.strategy import Strategy, Verifier
from tts.types import Role

TOKENS_PER_SAMPLE = 32
"""Where nobody says how many samples a strategy draws, it asks for one per so many tokens of its budget: more than
the budget can pay for, so that the budget decides."""


@dataclass(frozen=True)
class Method:
    """A strategy with its parameters and its verifier, under the name it has in tables."""

    label: str
    strategy: Strategy
    verifier: Verifier
    fixed: bool
    """Whether the number of samples was given, and is not the budget's business."""
    models: Mapping[Role, Backend] = field(default_factory=dict)
    """Those that its verifier asks."""

    def at(self, cell: Cell, parameters: int, longest: int) -> Strategy:
        """The strategy for one budget; `parameters` are the policy's weights, `longest` the most tokens of a sample.
        A search that grows paths side by side must be able to bring all of them to their end, read as they are."""
        together = self.strategy.together
        tokens, read = (longest, 2 * longest) if together else (TOKENS_PER_SAMPLE, TOKENS_PER_SAMPLE)
        samples = {
            "samples": cell.amount,
            "tokens": cell.amount / tokens,
            "flops": cell.amount / (2 * parameters) / read,
        }.get(cell.unit)
        if self.fixed or samples is None or "n" not in type(self.strategy).model_fields:
            return self.strategy
        return self.strategy.model_copy(update={"n": max(1, int(samples))})


@dataclass(frozen=True)
class Plan:
    """Everything there is to run."""

    suite: Suite
    items: Sequence[Item]
    methods: Sequence[Method]
    budgets: Sequence[tuple[Unit, float]]
    seeds: Sequence[int]
    concurrency: int
    runner: Runner | None = None
    """The sandbox, for answers that are programs."""

    @property
    def size(self) -> int:
        return len(self.items) * len(self.methods) * len(self.budgets) * len(self.seeds)

    def backends(self, policy: Backend) -> list[Backend]:
        """All the models that it asks, once."""
        asked = [policy, *(backend for method in self.methods for backend in method.models.values())]
        return list({id(backend): backend for backend in asked}.values())

    def cells(self) -> list[tuple[Method, Cell]]:
        """Every point of every curve, the largest budgets first: what they draw serves the smaller ones."""
        ordered = sorted(self.budgets, key=lambda budget: -budget[1])
        return [(m, Cell(method=m.label, unit=unit, amount=amount)) for unit, amount in ordered for m in self.methods]
