"""What the journal adds up to: usage, bill, sample counts and the tree of calls, all one fold over records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tts.journal import Chosen, Header, Held, Record, Settled, usage_of
from tts.types import NOTHING, Call, Completion, Reason, Role, Samples, Selection, Spend, Trace, Usage

FINISHER = "finish/"
"""The key prefix of the answer forced at the end, which is no sample of the search."""


class Books:
    """The running sums of a job's journal. Nothing else counts anything."""

    def __init__(self) -> None:
        self.spent: Spend = NOTHING
        self.lost = self.uncertain = 0
        self._usages: dict[Role, list[Usage]] = {}
        self.finished = self.truncated = self.failed = 0
        self.reasons: set[Reason] = set()
        self.errors: dict[Role, list[str]] = {}
        """What failed calls said, by whom was asked."""
        self.answered: set[Role] = set()
        """Who was asked and did not always fail."""
        self.stepped = self.thought = False
        """Whether some step ended, and whether some sample ended its thinking."""
        self._after = ""
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
        elif isinstance(record, Header):
            self._after = record.problem.kind.after

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
        self.uncertain += settled.uncertain
        if settled.reason is not None:
            self.reasons.add(settled.reason)
        if settled.outcome == "failed":
            self.errors.setdefault(settled.role, []).append(settled.error or "")
        elif settled.outcome == "completed":
            self.answered.add(settled.role)
        usage = usage_of(settled)
        if usage is None or settled.outcome == "lost":
            self.lost += int(settled.spend.tokens) - (usage.completion_tokens if usage else 0)
        if usage is not None:
            self._usages.setdefault(settled.role, []).append(usage)
        if settled.role == "policy" and not settled.key.startswith(FINISHER):
            self._count(settled)
        if settled.segments and settled.role == "policy":
            self._resident.add(self._held[settled.key], settled.segments)
        outcome = settled.segments[-1].finish if settled.segments else settled.outcome
        self._ends[settled.key] = (int(settled.spend.tokens), outcome, settled.at)

    def _count(self, settled: Settled) -> None:
        self.thought |= self._after in "".join(segment.text for segment in settled.segments)
        if settled.outcome == "completed":
            finish = settled.segments[-1].finish
            self.stepped |= finish == "until"
            self.finished += finish == "stop"
            self.truncated += finish in ("length", "halted", "watched")
        else:
            self.failed += settled.outcome in ("failed", "abandoned")  # what was lost is made again, and counted then


def idle(trace: Trace) -> float:
    """The share of time, between 0 and 1, that the policy's continuations spent waiting for the slowest of those they
    were asked for with: what step barriers and stragglers cost."""
    batches: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for call in trace.calls:
        if call.role == "policy":
            batches[call.key.rpartition(".")[0]].append((call.held_at, call.settled_at))
    waited, taken = waits(batches.values())
    return waited / taken if taken else 0.0


def waits(batches: Iterable[Sequence[tuple[float, float]]]) -> tuple[float, float]:
    """Of calls that were asked for together, each by when it was held and settled: how long those that were through
    waited for the slowest, and how long all of them took with that."""
    waited = taken = 0.0
    for calls in batches:
        end = max(settled for _, settled in calls)
        waited += sum(end - settled for _, settled in calls)
        taken += sum(end - held for held, _ in calls)
    return waited, taken


class _Node(NamedTuple):
    parent: int | None
    length: int
    """Tokens of the whole text that ends here."""
    tokens: int
    """Those that it adds to its parent's."""


class Resident:
    """Which tokens a KV cache has to hold for some paths. What texts begin with in common is there once, whoever
    brought it: an engine that caches prefixes recognises them by their tokens."""

    def __init__(self) -> None:
        self._nodes: list[_Node] = []
        self._known: dict[tuple[int | None, str], int] = {}
        self._of: dict[str, int] = {}
        self._together: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)

    def add(self, held: Held, segments: Sequence[Completion]) -> None:
        """A call that brought something."""
        usage = Usage.total([segment.usage for segment in segments])
        parent = self._of.get(held.parent or "")
        before = self._node(parent, f"{held.start}\0{held.forced}", usage.prompt_tokens)
        text = "".join(segment.text for segment in segments)
        self._of[held.key] = self._node(before, text, usage.prompt_tokens + usage.completion_tokens)
        self._together[held.key.rpartition(".")[0]].append((before, usage.completion_tokens))

    def tokens(self, calls: Iterable[str]) -> int:
        """All that these calls and those before them have brought, and the prompts they go back to."""
        return self._size(self._of[call] for call in calls if call in self._of)

    def token_steps(self) -> int:
        """Over all decode steps, calls of one batch being decoded together and those that are through waiting."""
        total = 0
        for batch in self._together.values():
            made = [tokens for _, tokens in batch]
            steps = max(made)
            total += self._size(node for node, _ in batch) * steps
            total += sum(n * (n + 1) // 2 + n * (steps - n) for n in made)
        return total

    def _node(self, parent: int | None, text: str, length: int) -> int:
        key = parent, text
        if key not in self._known:
            known = self._nodes[parent].length if parent is not None else 0
            self._known[key] = len(self._nodes)
            self._nodes.append(_Node(parent, length, max(0, length - known)))
        return self._known[key]

    def _size(self, nodes: Iterable[int]) -> int:
        """The tokens of nodes and of all above them."""
        found: set[int] = set()
        for node in nodes:
            each: int | None = node
            while each is not None and each not in found:
                found.add(each)
                each = self._nodes[each].parent
        return sum(self._nodes[node].tokens for node in found)
