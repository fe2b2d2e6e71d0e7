"""What the journal adds up to: usage, bill, sample counts and the tree of calls, all one fold over records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from tts.journal import Chosen, Held, Record, Settled, usage_of
from tts.types import NOTHING, Call, Completion, Reason, Role, Samples, Selection, Spend, Trace, Usage

FINISHER = "finish/"
"""The key prefix of the answer forced at the end, which is no sample of the search."""


class Books:
    """The running sums of a job's journal. Nothing else counts anything."""

    def __init__(self) -> None:
        self.spent: Spend = NOTHING
        self.lost = 0
        self._usages: dict[Role, list[Usage]] = {}
        self.finished = self.truncated = self.failed = 0
        self.reasons: set[Reason] = set()
        self.errors: list[str] = []
        self._held: dict[str, Held] = {}
        self._ends: dict[str, tuple[int, str, float]] = {}
        self._resident = Resident()
        self._selections: list[Selection] = []

    def add(self, record: Record) -> None:
        if isinstance(record, Held):
            self._held[record.key] = record
        elif isinstance(record, Chosen):
            self._choose(record)
        elif isinstance(record, Settled):
            self._settle(record)

    @property
    def usage(self) -> dict[Role, Usage]:
        return {role: Usage.total(usages) for role, usages in self._usages.items()}

    @property
    def samples(self) -> Samples:
        return Samples(finished=self.finished, truncated=self.truncated, failed=self.failed)

    @property
    def trace(self) -> Trace:
        return Trace(
            calls=tuple(self._call(held) for held in self._held.values()),
            selections=tuple(self._selections),
            kv_token_steps=self._resident.token_steps(),
        )

    def _choose(self, chosen: Chosen) -> None:
        self._selections.append(
            Selection(
                candidates=chosen.candidates,
                scores=chosen.scores,
                kept=chosen.kept,
                before=self._resident.tokens(chosen.candidates),
                after=self._resident.tokens(chosen.kept),
            )
        )

    def _call(self, held: Held) -> Call:
        tokens, outcome, at = self._ends.get(held.key, (0, "in flight", held.at))
        return Call(
            key=held.key,
            role=held.role,
            parent=held.parent,
            granted=held.granted,
            tokens=tokens,
            outcome=outcome,
            held_at=held.at,
            settled_at=at,
        )

    def _settle(self, settled: Settled) -> None:
        self.spent = self.spent.plus(settled.spend)
        if settled.reason is not None:
            self.reasons.add(settled.reason)
        if settled.outcome == "failed":
            self.errors.append(settled.error or "")
        usage = usage_of(settled)
        if usage is None:
            self.lost += int(settled.spend.tokens)
        else:
            self._usages.setdefault(settled.role, []).append(usage)
        if settled.role == "policy" and not settled.key.startswith(FINISHER):
            self._count(settled)
        if settled.segments and settled.role == "policy":
            self._resident.add(self._held[settled.key], settled.segments)
        outcome = settled.segments[-1].finish if settled.segments else settled.outcome
        self._ends[settled.key] = (int(settled.spend.tokens), outcome, settled.at)

    def _count(self, settled: Settled) -> None:
        if settled.outcome == "completed":
            finish = settled.segments[-1].finish
            self.finished += finish == "stop"
            self.truncated += finish in ("length", "halted", "watched")
        else:
            self.failed += settled.outcome != "refused"


class _Node(NamedTuple):
    parent: str | None
    prompt: int
    tokens: int


class Resident:
    """Which tokens the KV cache has to hold for some paths: prompt and shared steps once."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._together: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, held: Held, segments: Iterable[Completion]) -> None:
        """A call that brought something."""
        usage = Usage.total([segment.usage for segment in segments])
        self._nodes[held.key] = _Node(held.parent, usage.prompt_tokens, usage.completion_tokens)
        self._together[held.key.rpartition(".")[0]].append(held.key)

    def tokens(self, keys: Iterable[str]) -> int:
        """All that these calls and those before them have brought, and the prompts they go back to."""
        nodes = [self._nodes[key] for key in self._ancestry(keys)]
        roots = {node.prompt for node in nodes if node.parent is None}
        return sum(roots) + sum(node.tokens for node in nodes)

    def token_steps(self) -> int:
        """Over all decode steps, calls of one batch being decoded together and those that are through waiting."""
        total = 0
        for keys in self._together.values():
            parents = {parent for key in keys if (parent := self._nodes[key].parent) is not None}
            shared = self.tokens(parents) or self._nodes[keys[0]].prompt
            made = [self._nodes[key].tokens for key in keys]
            steps = max(made)
            total += shared * steps + sum(n * (n + 1) // 2 + n * (steps - n) for n in made)
        return total

    def _ancestry(self, keys: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for key in keys:
            each: str | None = key
            while each is not None and each not in found and each in self._nodes:
                found.add(each)
                each = self._nodes[each].parent
        return found
