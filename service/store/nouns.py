"""What Redis holds of jobs, as data; and how it is written there and read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from pydantic import NonNegativeFloat, NonNegativeInt, ValidationError

from service.spec import OVER, Spec, State
from service.store.journal import nano
from tts.cost import one_line
from tts.errors import TTSError
from tts.journal import Record
from tts.types import Budget, Noun

log = logging.getLogger("tts.store")
Reason = str
"""Why jobs were not taken: `rate`, `queue`, `budget`, `unbounded`, `conflict`."""


class Refusal(TTSError):
    """Jobs were not taken; nothing has changed. It is worth trying again in `wait` seconds."""

    def __init__(self, reason: Reason, wait: float, about: str) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.about = reason, wait, about


class Claim(NamedTuple):
    """A job that a worker has from now on, and the fence that its writes have to show."""

    fence: int
    tenant: str
    spec: Spec
    label: str
    """How metrics call the tenant."""
    waited: float
    """Seconds until it was started first."""

    @property
    def id(self) -> str:
        return self.spec.id


class Pulse(NamedTuple):
    """What a worker hears when it renews its leases."""

    stale: frozenset[str]
    cancelled: frozenset[str]
    requeued: int


class Glimpse(NamedTuple):
    """As much of a job as whoever follows it needs; `grown` is what its journal has more than the follower knows, read
    as it is asked for: of thousands of streams that wait, none holds records that it has passed on."""

    state: State
    fence: int
    grown: Iterator[Record]

    @property
    def over(self) -> bool:
        return self.state in OVER


class Job(Noun):
    """A job as it stands. Times are seconds since 1970; `spent_usd` is in dollars. `model` and `strategy` are what its
    `spec` says, and are known without it."""

    id: str
    tenant: str
    state: State
    model: str | None = None
    strategy: str | None = None
    created: NonNegativeFloat
    started: NonNegativeFloat | None = None
    ended: NonNegativeFloat | None = None
    batch: str | None = None
    worker: str | None = None
    fence: NonNegativeInt = 0
    spent_tokens: NonNegativeInt = 0
    spent_usd: NonNegativeFloat = 0.0
    cancelling: bool = False
    spec: Spec | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def over(self) -> bool:
        return self.state in OVER


class Batch(Noun):
    """Many jobs with one budget. `jobs` are in the order in which the problems came."""

    id: str
    tenant: str
    created: NonNegativeFloat
    budget: Budget
    jobs: tuple[str, ...]
    ended: NonNegativeInt
    spent_tokens: NonNegativeInt
    spent_usd: NonNegativeFloat


def claim_of(told: Sequence[Any]) -> Claim | None:
    """What was claimed; None for a job that another version wrote: its lease will expire, and others may read it."""
    id, fence, tenant, blob, share, label, waited = told
    try:
        spec = Spec.model_validate_json(blob)
    except ValidationError as error:
        log.warning("job %s cannot be read by this version: %s", id.decode(), one_line(error))
        return None
    if share:
        spec = spec.model_copy(update={"budget": budget_of(share)})
    return Claim(fence, tenant.decode(), spec, label.decode(), max(0.0, waited / 1000))


def parts_of(spec: Spec) -> tuple[str, str, str, str]:
    """A job as it is handed in: what lists of jobs show of it, and all of it."""
    return spec.id, spec.model, spec.strategy.name, spec.model_dump_json()


def units_of(budget: Budget) -> dict[str, float]:
    """A budget as scripts reckon with it: dollars in billionths, one at least."""
    given = budget.model_dump(exclude_none=True)
    return {**given, "usd": max(1, nano(given["usd"]))} if "usd" in given else given


def budget_of(units: str | bytes) -> Budget:
    """A budget from what scripts reckon with."""
    given = json.loads(units)
    return Budget(**({**given, "usd": given["usd"] / 1e9} if "usd" in given else given))


def job_of(id: str, flat: Sequence[bytes]) -> Job:
    """A job from the fields of its hash, as many as there are."""
    found = fields_of(flat)
    times = {name: int(found[name]) / 1000 for name in ("started", "ended") if name in found}
    return Job(
        id=id,
        tenant=found["tenant"],
        state=cast(State, found["state"]),
        model=found.get("model"),
        strategy=found.get("strategy"),
        created=int(found["created"]) / 1e6,
        batch=found.get("batch"),
        worker=found.get("worker"),
        fence=int(found["fence"]),
        spent_tokens=int(found.get("spent_tokens", 0)),
        spent_usd=int(found.get("spent_usd", 0)) / 1e9,
        cancelling="cancel" in found and found["state"] not in OVER,
        spec=Spec.model_validate_json(found["spec"]) if "spec" in found else None,
        result=json.loads(found["result"]) if found.get("result") else None,
        error=json.loads(found["error"]) if "error" in found else None,
        **times,
    )


def fields_of(flat: Sequence[bytes]) -> dict[str, str]:
    """A hash as Redis tells it: names and values, one after the other."""
    return {text_of(name): text_of(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}


def text_of(value: bytes | int) -> str:
    """A value as text."""
    return value.decode() if isinstance(value, bytes) else str(value)
