"""What the journal adds up to: usage, bill, sample counts and the tree of calls, all one fold over records."""

from __future__ import annotations

from tts.journal import Held, Record, Settled, usage_of
from tts.types import NOTHING, Call, Reason, Role, Samples, Spend, Trace, Usage

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

    def add(self, record: Record) -> None:
        if isinstance(record, Held):
            self._held[record.key] = record
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
        return Trace(calls=tuple(self._call(held) for held in self._held.values()))

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
        outcome = settled.segments[-1].finish if settled.segments else settled.outcome
        self._ends[settled.key] = (int(settled.spend.tokens), outcome, settled.at)

    def _count(self, settled: Settled) -> None:
        if settled.outcome == "completed":
            finish = settled.segments[-1].finish
            self.finished += finish == "stop"
            self.truncated += finish in ("length", "halted", "watched")
        else:
            self.failed += settled.outcome != "refused"
