"""What the journal of a job adds to the metrics: each record once, when it is written, and never when it is read."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from service.metrics.rows import Increments
from service.outcome import Outcome
from tts.journal import Ended, Header, Held, Record, Settled, usage_of
from tts.trace import FINISHER
from tts.types import NOTHING, Budget, Role, Spend

OUTCOMES = {"stop": "finished", "until": "step", "length": "truncated", "watched": "truncated", "halted": "cancelled"}
"""What became of a sample that came back, by how it ended."""


class Counting:
    """The books of one job's metrics. `waited` is how long it was queued before its first start, in seconds."""

    def __init__(self, tenant: str, strategy: str, waited: float) -> None:
        self._tenant, self._strategy, self._waited = tenant, strategy, waited
        self._models: dict[Role, str] = {}
        self._granted: Budget | None = None
        self._held: dict[str, float] = {}
        self._rounds: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._spent: Spend = NOTHING
        self._answered = False
        self._replayed = 0

    def replay(self, records: Iterable[Record]) -> None:
        """Hear of an earlier life: only that its calls are answered again is new, and told with what comes next."""
        for record in records:
            self._counted(record, Increments())
            self._replayed += isinstance(record, Settled) and record.outcome != "lost"

    def counted(self, records: Sequence[Record]) -> Increments:
        """What records add that are being written."""
        found = Increments()
        if records:
            found.add("tts_replayed_calls_total", self._strategy, by=self._replayed)
            self._replayed = 0
        for record in records:
            self._counted(record, found)
        return found

    def ended(self, state: str, outcome: Outcome | None) -> Increments:
        """What a job adds when it is over."""
        found, whose = Increments(), (self._tenant, self._strategy)
        stop = outcome.stop if outcome else ""
        found.add("tts_jobs_ended_total", *whose, state, stop)
        self._refund(found)
        if outcome is None:
            return found
        found.observe("tts_job_tokens", self._strategy, value=outcome.bill.tokens)
        found.add("tts_kv_token_steps_total", self._strategy, by=outcome.usage.kv_token_steps)
        found.add("tts_ledger_mismatches_total", by=int(outcome.bill.tokens != self._spent.tokens))
        if outcome.answer is not None:
            found.add("tts_answers_total", *whose, _manner(outcome.chosen or ""))
            found.observe("tts_final_answer_seconds", self._strategy, value=outcome.bill.seconds)
        if outcome.votes:
            share = outcome.votes[0].weight / (math.fsum(vote.weight for vote in outcome.votes) or 1)
            found.observe("tts_agreement", self._strategy, value=share)
        return found

    def _counted(self, record: Record, found: Increments) -> None:
        if isinstance(record, Settled):
            self._settled(record, found)
        elif isinstance(record, Held):
            self._held[record.key] = record.at
        elif isinstance(record, Header):
            self._begun(record, found)
        elif isinstance(record, Ended):
            self._waits(found)

    def _begun(self, header: Header, found: Increments) -> None:
        self._models = {role: info.name for role, info in header.models.items()}
        self._granted = header.budget
        whose = self._tenant, self._strategy
        found.add("tts_budget_granted_tokens_total", *whose, by=header.budget.tokens or 0)
        found.add("tts_budget_granted_usd_total", *whose, by=header.budget.usd or 0)
        found.observe("tts_queue_seconds", self._tenant, value=self._waited)

    def _refund(self, found: Increments) -> None:
        whose, budget = (self._tenant, self._strategy), self._granted
        if budget is None:
            return
        found.add("tts_budget_refunded_tokens_total", *whose, by=max(0, (budget.tokens or 0) - self._spent.tokens))
        found.add("tts_budget_refunded_usd_total", *whose, by=max(0.0, (budget.usd or 0) - self._spent.usd))

    def _settled(self, settled: Settled, found: Increments) -> None:
        whose, spend = (self._tenant, self._strategy), settled.spend
        self._spent = self._spent.plus(spend)
        found.add("tts_budget_spent_tokens_total", *whose, by=spend.tokens)
        found.add("tts_budget_spent_usd_total", *whose, by=spend.usd)
        found.add("tts_spent_flops_total", self._strategy, by=spend.flops)
        made = self._used(settled, found)
        if settled.outcome in ("failed", "abandoned"):
            found.add("tts_budget_forfeited_tokens_total", *whose, by=spend.tokens - made)
        elif settled.outcome == "lost":
            found.add("tts_budget_lost_tokens_total", *whose, by=spend.tokens - made)
        if settled.role == "policy" and not settled.key.startswith(FINISHER):
            self._sampled(settled, found)

    def _used(self, settled: Settled, found: Increments) -> int:
        """What models read and wrote for a call; how many tokens came of it."""
        model = self._models.get(settled.role, "")
        held = self._held.pop(settled.key, None)
        if held is not None and settled.outcome not in ("refused", "lost"):
            found.observe("tts_call_seconds", settled.role, model, value=settled.at - held)
            if settled.role == "policy":
                self._rounds[settled.key.rpartition(".")[0]].append((held, settled.at))
        usage = usage_of(settled)
        if usage is None:
            return 0
        labels = settled.role, model, self._tenant, self._strategy
        found.add("tts_prompt_tokens_total", *labels, by=usage.prompt_tokens)
        found.add("tts_cached_tokens_total", *labels, by=usage.cached_tokens)
        found.add("tts_completion_tokens_total", *labels, by=usage.completion_tokens)
        return usage.completion_tokens

    def _sampled(self, settled: Settled, found: Increments) -> None:
        finish = settled.segments[-1].finish if settled.outcome == "completed" and settled.segments else None
        found.add("tts_samples_total", self._strategy, OUTCOMES[finish] if finish else settled.outcome)
        if finish == "stop" and not self._answered:
            self._answered = True
            found.observe("tts_first_answer_seconds", self._strategy, value=settled.at)

    def _waits(self, found: Increments) -> None:
        """Of calls that were asked for together, how long those that were through waited for the slowest."""
        taken = waited = 0.0
        for calls in self._rounds.values():
            end = max(at for _, at in calls)
            taken += math.fsum(end - held for held, _ in calls)
            waited += math.fsum(end - at for _, at in calls)
        found.add("tts_sample_seconds_total", self._strategy, by=taken)
        found.add("tts_waited_seconds_total", self._strategy, by=waited)


def _manner(chosen: str) -> str:
    """How an answer was chosen, without what was chosen among."""
    return chosen.partition(":")[0].partition(";")[0]
