"""Durable execution by replay: what a job was told, written down before it is told.

A journal is a header and then records in the order in which things happened. Every call has a key that
depends only on the structure of the program, so a strategy that runs again asks the same questions under the
same keys and is given the recorded outcomes, at no cost, until it asks something new.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path as File
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError

from tts.cost import Price, one_line
from tts.errors import JournalError, JournalMismatch
from tts.types import (
    Budget,
    Completion,
    ModelInfo,
    Noun,
    Problem,
    Reason,
    Remaining,
    Role,
    Sampling,
    Spend,
    Stop,
    Usage,
    Verdicts,
)

SCHEMA = 1
Outcome = TypeVar("Outcome", "Settled", "Computed")


class Named(Noun):
    """A strategy or verifier as data."""

    name: str
    version: int
    parameters: dict[str, Any]


class Header(Noun):
    """Whose journal this is. Everything that decides the outcome is here, so a journal replays on its own."""

    type: Literal["header"] = "header"
    schema_version: int = SCHEMA
    code: str
    job: str
    problem: Problem
    strategy: Named
    scorer: Named | None
    budget: Budget
    sampling: Sampling
    seed: int
    models: dict[Role, ModelInfo]
    prices: dict[str, Price]
    runner: str | None = None
    """The sandbox in which programs ran, if there was one: votes go by what programs do there."""

    def same_job(self, other: Header) -> str | None:
        """The first field in which two headers describe different jobs; None where they describe one. Another version
        may know more of models, and have other parameters: it goes on with the candidates of the same problem."""
        if not self.same_version(other):
            return None if self.problem == other.problem else "problem"
        for field in ("problem", "strategy", "scorer", "budget", "sampling", "seed", "models", "prices", "runner"):
            mine, theirs = getattr(self, field), getattr(other, field)
            if field in ("strategy", "scorer") and mine and theirs:
                mine, theirs = (mine.name, mine.parameters), (theirs.name, theirs.parameters)
            if mine != theirs:
                return field
        return None

    def same_version(self, other: Header) -> bool:
        """Whether the other's program may be replayed by this one."""
        versions = [
            (h.schema_version, h.code, h.strategy.version, h.scorer and h.scorer.version) for h in (self, other)
        ]
        return versions[0] == versions[1]


class Held(Noun):
    """Written before a request is sent: it may cost up to `most` from here on.

    `parent` is the path's newest call and `forced` the text forced after it, so the tree of paths can be read
    from the journal alone.
    """

    type: Literal["hold"] = "hold"
    key: str
    role: Role
    id: str
    request: str
    start: str
    parent: str | None
    forced: str
    granted: int
    most: Spend
    at: float


class Checkpoint(Noun):
    """What a call that is not settled yet has generated since its last checkpoint. If its process dies, the call goes
    on from there."""

    type: Literal["checkpoint"] = "checkpoint"
    key: str
    piece: Completion
    at: float


class Settled(Noun):
    """Written before the strategy sees the outcome. `segments` are the pieces a completion was bought in, `verdicts`
    what came of reading a sheet.

    `abandoned` calls did not answer a halt in time; `lost` ones were in flight when a process died, and are
    made again under `key#2`, from what was checkpointed of them on. Both are charged in full, since all of it may have
    been generated; of an engine that died with its process, what it can have generated after the last checkpoint.
    `uncertain` tokens may have been generated beside by a server that failed, and are not charged.
    """

    type: Literal["settle"] = "settle"
    key: str
    role: Role
    request: str
    outcome: Literal["completed", "failed", "refused", "abandoned", "lost"]
    reason: Reason | None
    error: str | None
    segments: tuple[Completion, ...]
    verdicts: Verdicts | None = None
    spend: Spend
    uncertain: NonNegativeInt = 0
    remaining: Remaining | None
    at: float


class Computed(Noun):
    """What local work came to: JSON, or that it did not end in time."""

    type: Literal["compute"] = "compute"
    key: str
    request: str
    value: Any
    timed_out: bool
    at: float


class Arrived(Noun):
    """Which child of `arrivals` came next."""

    type: Literal["arrival"] = "arrival"
    key: str
    child: int
    at: float


class Chosen(Noun):
    """Which candidates, by the calls that brought them, a search goes on with."""

    type: Literal["choice"] = "choice"
    key: str
    candidates: tuple[str, ...]
    scores: tuple[float | None, ...]
    kept: tuple[str, ...]
    at: float


class Ended(Noun):
    """The job is over and its result was returned."""

    type: Literal["end"] = "end"
    stop: Stop
    cut_short: bool
    at: float


Record = Header | Held | Checkpoint | Settled | Computed | Arrived | Chosen | Ended
RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="type")])


_OPENING = b'{"type":'
"""How every line begins: what a crash tore off begins so too, and what does not is somebody's own text."""


class Journal(Protocol):
    """Where records live: a list, a file, a Redis stream."""

    async def read(self) -> list[Record]: ...

    async def append(self, *records: Record) -> None:
        """Make the records durable before returning, all of them or none."""
        ...


class MemoryJournal:
    """A list: gone with the process."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.records = list(records)

    async def read(self) -> list[Record]:
        return list(self.records)

    async def append(self, *records: Record) -> None:
        self.records.extend(records)


class JsonlJournal:
    """One JSON object a line. Survives the death of the process; it is not synced against loss of power."""

    def __init__(self, file: File) -> None:
        self.file = file
        try:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalError(f"the journal {file} is in use by another process") from error
        except OSError as error:
            raise JournalError(f"cannot write the journal {file}: {error.strerror}") from error

    async def read(self) -> list[Record]:
        """Every whole record; a line that a crash tore off at the end is cut away."""
        records, whole = parse(self.file.read_bytes(), self.file)
        os.truncate(self._descriptor, whole)
        return records

    async def append(self, *records: Record) -> None:
        data = b"".join(record.__pydantic_serializer__.to_json(record) + b"\n" for record in records)
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            raise JournalError(f"cannot write the journal {self.file}: {error.strerror}") from error
        if written != len(data):
            raise JournalError(f"cannot write the journal {self.file}: the disk is full")

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def parse(data: bytes, name: File) -> tuple[list[Record], int]:
    """The records in `data`, and how many of its bytes are whole lines."""
    whole = data.rfind(b"\n") + 1
    records = []
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        try:
            records.append(RECORD.validate_json(line))
        except ValidationError as error:
            raise JournalError(f"{name}, line {number} is not a journal record: {one_line(error)}") from error
    torn = data[whole : whole + len(_OPENING)]
    if torn != _OPENING[: len(torn)]:
        raise JournalError(f"{name} does not end in a journal record; it is left as it is")
    return records, whole


class Log:
    """A job's journal while the job runs: read once, then only appended to.

    What is read answers replayed calls; what is appended is also shown to `observe`, so that progress and
    metrics count nothing twice.
    """

    def __init__(self, journal: Journal, records: list[Record], observe: Callable[[Record], None]) -> None:
        self._journal, self._observe = journal, observe
        self.elapsed = max((r.at for r in records if not isinstance(r, Header)), default=0.0)
        self.ended = next((r for r in records if isinstance(r, Ended)), None)
        self._held = {r.key: r for r in records if isinstance(r, Held)}
        self._settled = {r.key: r for r in records if isinstance(r, Settled)}
        self._lost = {key: r for key, r in self._settled.items() if r.outcome == "lost"}
        self._computed = {r.key: r for r in records if isinstance(r, Computed)}
        self._chosen = {r.key for r in records if isinstance(r, Chosen)}
        self._begun: dict[str, list[Completion]] = {}
        self._arrived: dict[str, list[int]] = {}
        for record in records:
            if isinstance(record, Arrived):
                self._arrived.setdefault(record.key, []).append(record.child)
            elif isinstance(record, Checkpoint):
                self._begun.setdefault(record.key, []).append(record.piece)

    @property
    def replaying(self) -> bool:
        return bool(self._settled or self._computed)

    def in_flight(self) -> list[Held]:
        """Holds that were never settled: a process died on them."""
        return [held for key, held in self._held.items() if key not in self._settled]

    def begun(self, key: str) -> tuple[Completion, ...]:
        """What was checkpointed of a call."""
        return tuple(self._begun.get(key, ()))

    def settled(self, key: str, request: str) -> Settled | None:
        """The outcome of a call, whichever attempt at it was the one that ended, with what the earlier ones brought."""
        found = self._settled.get(self.attempt(key))
        found = _matching(found, key, request)
        return found and whole(found, self.carried(key))

    def attempt(self, key: str) -> str:
        """The key under which a call is made: `key`, or `key#2` after a first attempt was lost."""
        return next(name for name in _attempts(key) if name not in self._lost)

    def last_lost(self, key: str) -> str:
        """The newest attempt at a call that was lost; the call's own key where none was."""
        *_, last = key, *itertools.takewhile(self._lost.__contains__, _attempts(key))
        return last

    def carried(self, key: str) -> tuple[Completion, ...]:
        """What attempts that were lost had brought of a call."""
        names = itertools.takewhile(self._lost.__contains__, _attempts(key))
        return tuple(segment for name in names for segment in self._lost[name].segments)

    def computed(self, key: str, request: str) -> Computed | None:
        return _matching(self._computed.get(key), key, request)

    def arrived(self, key: str) -> list[int]:
        return self._arrived.get(key, [])

    def chosen(self, key: str) -> bool:
        return key in self._chosen

    async def append(self, *records: Record) -> None:
        await self._journal.append(*records)
        for record in records:
            self._observe(record)

    async def lose(self, lost: Settled) -> None:
        """Book a call that was in flight when a process died; it will be made again under another key."""
        self._settled[lost.key] = self._lost[lost.key] = lost
        await self.append(lost)


def _attempts(key: str) -> Iterator[str]:
    """The names of a call's attempts: `key`, `key#2`, …"""
    yield key
    yield from (f"{key}#{attempt}" for attempt in itertools.count(2))


def whole(settled: Settled, carried: tuple[Completion, ...]) -> Settled:
    """A call's outcome, and before it what its lost attempts had brought: without more, a text that was cut off."""
    if not carried:
        return settled
    more = settled.segments
    kept = carried if more else (*carried[:-1], carried[-1].model_copy(update={"finish": "length"}))
    return settled.model_copy(update={"segments": (*kept, *more)})


def _matching(found: Outcome | None, key: str, request: str) -> Outcome | None:
    if found is not None and found.request != request:
        raise JournalMismatch(
            f"call {key} asks something else than the journal recorded: the strategy depends on something "
            "that is not in its journal (a clock, a global, a set's order)"
        )
    return found


def usage_of(settled: Settled) -> Usage | None:
    """What a settled call used, summed over its segments; None where it bought nothing."""
    if settled.verdicts is not None:
        return settled.verdicts.usage
    if len(settled.segments) == 1:
        return settled.segments[0].usage
    return Usage.total([segment.usage for segment in settled.segments]) if settled.segments else None
