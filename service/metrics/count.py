"""What the journal of a job adds to the metrics: every record once, whoever writes it and however often it is read.

Records are added up together, now and then, and become rows: one by one, that would cost twice as much. With the rows
goes how many entries of the journal they stand for: a worker that takes the job over counts from there on.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable

from service.metrics.rows import BY_NAME, Increments
from service.outcome import Outcome
from tts.journal import Ended, Header, Held, Record, Settled, usage_of
from tts.trace import FINISHER, waits
from tts.types import NOTHING, Budget, Role, Spend

OUTCOMES = {"stop": "finished", "until": "step", "length": "truncated", "watched": "truncated", "halted": "cancelled"}
"""What became of a sample that came back, by how it ended."""
FAILED = "error"
"""What stopped a job that has no outcome."""
_NUMBERS = re.compile(r"( of)? \d+")
_BOUNDS = BY_NAME["tts_call_seconds"].buckets


class Calls:
    """Sums over the calls of one model."""

    def __init__(self) -> None:
        self.prompt = self.cached = self.completion = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(_BOUNDS) + 1)


class Sums:
    """Sums over the calls of a job since they were told last."""

    def __init__(self) -> None:
        self.calls: defaultdict[Role, Calls] = defaultdict(Calls)
        self.spent: Spend = NOTHING
        self.forfeited = self.lost = 0.0
        self.samples: Counter[str] = Counter()
        self.other = Increments()
        """What happens once in a job."""


class Counting:
    """The books of one job's metrics. `waited` is how long it was queued before its first start, in seconds."""

    def __init__(self, tenant: str, strategy: str, waited: float) -> None:
        self._whose, self._strategy, self._waited = (tenant, strategy), strategy, waited
        self._models: dict[Role, str] = {}
        self._granted: Budget | None = None
        self._spent: Spend = NOTHING
        """As far as it was told."""
        self._held: dict[str, float] = {}
        self._rounds: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._answered = False
        self._sums = Sums()
        self._heard: list[Record] = []

    def replay(self, counted: Iterable[Record], more: Iterable[Record]) -> None:
        """Hear of an earlier life: of records that were counted in it, and of more that were not."""
        known, new = list(counted), list(more)
        self.hear(known)
        self.told()
        self.hear(new)
        again = sum(isinstance(record, Settled) and record.outcome != "lost" for record in (*known, *new))
        self._sums.other.add("tts_replayed_calls_total", self._strategy, by=again)

    def hear(self, records: Iterable[Record]) -> None:
        """Hear of what is being written."""
        self._heard.extend(records)

    def told(self) -> Increments:
        """Rows of what was heard since they were told last."""
        for record in self._heard:
            self._add(record)
        self._heard.clear()
        sums, self._sums = self._sums, Sums()
        self._spent = self._spent.plus(sums.spent)
        found = sums.other
        for role, calls in sums.calls.items():
            self._of_model(role, calls, found)
        found.add("tts_budget_spent_tokens_total", *self._whose, by=sums.spent.tokens)
        found.add("tts_budget_spent_usd_total", *self._whose, by=sums.spent.usd)
        found.add("tts_spent_flops_total", self._strategy, by=sums.spent.flops)
        found.add("tts_budget_forfeited_tokens_total", *self._whose, by=sums.forfeited)
        found.add("tts_budget_lost_tokens_total", *self._whose, by=sums.lost)
        for outcome, samples in sums.samples.items():
            found.add("tts_samples_total", self._strategy, outcome, by=samples)
        return found

    def ended(self, state: str, outcome: Outcome | None, error: str) -> Increments:
        """Rows of what was not told yet, and of a job's end; `error` is the code of what kept it from an outcome."""
        found = self.told()
        found.add("tts_jobs_ended_total", *self._whose, state, outcome.stop if outcome else error)
        self._refund(found)
        if outcome is None:
            return found
        found.observe("tts_job_tokens", self._strategy, value=outcome.bill.tokens)
        found.add("tts_kv_token_steps_total", self._strategy, by=outcome.usage.kv_token_steps)
        found.add("tts_ledger_mismatches_total", by=int(outcome.bill.tokens != self._spent.tokens))
        if outcome.answer is not None:
            found.add("tts_answers_total", *self._whose, _manner(outcome.chosen or ""))
            found.observe("tts_final_answer_seconds", self._strategy, value=outcome.bill.seconds)
        if outcome.votes:
            share = outcome.votes[0].weight / (math.fsum(vote.weight for vote in outcome.votes) or 1)
            found.observe("tts_agreement", self._strategy, value=share)
        return found

    def _add(self, record: Record) -> None:
        if isinstance(record, Settled):
            self._settled(record)
        elif isinstance(record, Held):
            self._held[record.key] = record.at
        elif isinstance(record, Header):
            self._begun(record)
        elif isinstance(record, Ended):
            self._waits()

    def _begun(self, header: Header) -> None:
        self._models = {role: info.name for role, info in header.models.items()}
        self._granted = header.budget
        found = self._sums.other
        found.add("tts_budget_granted_tokens_total", *self._whose, by=header.budget.tokens or 0)
        found.add("tts_budget_granted_usd_total", *self._whose, by=header.budget.usd or 0)
        found.observe("tts_queue_seconds", self._whose[0], value=self._waited)
        for name in ("refunded", "forfeited", "lost"):
            found.show(f"tts_budget_{name}_tokens_total", *self._whose)
        for state, stop in (("done", "done"), ("failed", FAILED)):
            found.show("tts_jobs_ended_total", *self._whose, state, stop)
        found.show("tts_replayed_calls_total", self._strategy)
        found.show("tts_ledger_mismatches_total")
        found.show("tts_jobs_requeued_total")

    def _refund(self, found: Increments) -> None:
        budget = self._granted
        if budget is None:
            return
        left = (budget.tokens or 0) - self._spent.tokens, (budget.usd or 0) - self._spent.usd
        found.add("tts_budget_refunded_tokens_total", *self._whose, by=max(0, left[0]))
        found.add("tts_budget_refunded_usd_total", *self._whose, by=max(0, left[1]))

    def _settled(self, settled: Settled) -> None:
        sums, outcome, spend = self._sums, settled.outcome, settled.spend
        sums.spent = sums.spent.plus(spend)
        made = self._used(settled)
        if outcome in ("failed", "abandoned"):
            sums.forfeited += spend.tokens - made
        elif outcome == "lost":
            sums.lost += spend.tokens - made
        if settled.role == "policy" and not settled.key.startswith(FINISHER):
            finish = settled.segments[-1].finish if outcome == "completed" and settled.segments else ""
            whole = outcome == "lost" and spend.tokens == made  # a worker that stopped has handed it on
            sums.samples["handed on" if whole else OUTCOMES.get(finish, outcome)] += 1
            if finish == "stop" and not self._answered:
                self._answered = True
                sums.other.observe("tts_first_answer_seconds", self._strategy, value=settled.at)

    def _used(self, settled: Settled) -> int:
        """Add up what a model read and wrote for a call, and how long it took; how many tokens came of it."""
        calls = self._sums.calls[settled.role]
        held = self._held.pop(settled.key, None)
        if held is not None and settled.outcome not in ("refused", "lost"):
            took = settled.at - held
            calls.seconds += took
            calls.buckets[bisect_left(_BOUNDS, took)] += 1
            if settled.role == "policy":
                self._rounds[settled.key.rpartition(".")[0]].append((held, settled.at))
        usage = usage_of(settled)
        if usage is None:
            return 0
        calls.prompt += usage.prompt_tokens
        calls.cached += usage.cached_tokens
        calls.completion += usage.completion_tokens
        return usage.completion_tokens

    def _of_model(self, role: Role, calls: Calls, found: Increments) -> None:
        model = self._models.get(role, "")
        labels = role, model, *self._whose
        found.add("tts_prompt_tokens_total", *labels, by=calls.prompt)
        found.add("tts_cached_tokens_total", *labels, by=calls.cached)
        found.add("tts_completion_tokens_total", *labels, by=calls.completion)
        found.enter("tts_call_seconds", role, model, counts=calls.buckets, total=calls.seconds)

    def _waits(self) -> None:
        waited, taken = waits(self._rounds.values())
        self._sums.other.add("tts_sample_seconds_total", self._strategy, by=taken)
        self._sums.other.add("tts_waited_seconds_total", self._strategy, by=waited)


def _manner(chosen: str) -> str:
    """How an answer was chosen, without how many it was chosen among."""
    return _NUMBERS.sub("", re.split("[:;]", chosen)[0])
