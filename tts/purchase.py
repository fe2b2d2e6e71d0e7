"""One call through the door: reserved, journalled, sent, settled, journalled again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, NoReturn, cast

from tts.backends.base import Backend, Keep, Reader, Reading, Request, Watch
from tts.errors import BackendError, Refused, Suspended, UsageError
from tts.halt import Halt
from tts.job import Job
from tts.journal import Checkpoint, Held, Settled, whole
from tts.ledger import Ask, Hold
from tts.types import (
    NOTHING,
    Completion,
    Looks,
    ModelInfo,
    Path,
    Reason,
    Role,
    Sampling,
    Sheet,
    Spend,
    Usage,
    Verdicts,
    digest,
    number,
)

SMALLEST_GRANT = 8
"""Fewer tokens than this are not worth a call, unless a call asks for fewer."""


class Brought(NamedTuple):
    """What a call came back with, and whether it ended early, and why."""

    usage: Usage
    reason: Reason | None
    segments: tuple[Completion, ...] = ()
    verdicts: Verdicts | None = None


@dataclass(frozen=True)
class Wish:
    """One continuation that a strategy wants, under the key that will always be its own. `request` names what is asked,
    so that a replay notices when something else is."""

    key: str
    role: Role
    path: Path
    prompt: int
    sampling: Sampling
    until: tuple[str, ...]
    watch: Watch | None
    request: str

    @property
    def start(self) -> str:
        return self.path.origin

    @property
    def newest(self) -> tuple[str | None, str]:
        return self.path.newest

    def tokens(self, model: ModelInfo) -> tuple[int, int] | None:
        """The most tokens to ask for, and the fewest worth having; None where the prompt leaves no room for any."""
        ceiling = min(self.sampling.max_tokens, model.context - self.prompt)
        return (ceiling, min(SMALLEST_GRANT, ceiling)) if ceiling >= 1 else None

    def after(self, carried: tuple[Completion, ...], key: str, backend: Backend) -> Wish:
        """What is still wanted where the attempt `key`, and others before it, had brought something."""
        if not carried:
            return self
        begun = Completion.joined(carried)
        path = self.path.extend(begun.model_copy(update={"finish": "until"}), key)
        left = self.sampling.max_tokens - begun.usage.completion_tokens
        sampling = self.sampling.model_copy(update={"max_tokens": left})
        return replace(self, path=path, prompt=backend.prompt_tokens(path), sampling=sampling)

    async def send(self, backend: Backend, id: str, seed: int, hold: Hold, halt: Halt, keep: Keep | None) -> Brought:
        request = Request(
            id=id,
            path=self.path,
            prompt_tokens=self.prompt,
            max_tokens=hold.granted,
            sampling=self.sampling,
            seed=seed,
            halt=halt,
            until=self.until,
            watch=self.watch,
            keep=keep,
        )
        completion = await backend.generate(request)
        if completion.usage.completion_tokens > hold.granted:
            raise BackendError(f"{completion.usage.completion_tokens} tokens came for {hold.granted} granted")
        reason = halt.reason if completion.finish == "halted" else None
        if completion.finish == "length" and hold.cut:
            reason = "budget"
        return Brought(completion.usage, reason, segments=(completion,))


@dataclass(frozen=True)
class Look:
    """One sheet that a verifier wants read."""

    key: str
    role: Role
    sheet: Sheet
    prompt: int
    request: str

    newest = (None, "")

    @property
    def start(self) -> str:
        return digest(repr(self.sheet.before))

    def tokens(self, model: ModelInfo) -> tuple[int, int] | None:
        """None are generated; None where the sheet is longer than what the model reads."""
        return (0, 0) if self.prompt <= model.context else None

    def after(self, carried: tuple[Completion, ...], key: str, backend: Backend) -> Look:
        """The same again: of a sheet nothing is read half."""
        return self

    async def send(self, backend: Backend, id: str, seed: int, hold: Hold, halt: Halt, keep: Keep | None) -> Brought:
        reading = Reading(id=id, sheet=self.sheet, prompt_tokens=self.prompt, halt=halt)
        verdicts = await cast(Reader, backend).read(reading)
        wanted = len(self.sheet.pieces) - self.sheet.skip
        if verdicts.pieces is not None and len(verdicts.pieces) != wanted:
            raise BackendError(f"{len(verdicts.pieces)} verdicts came for {wanted} steps", usage=verdicts.usage)
        if not _answers(self.sheet, verdicts.pieces or ()):
            raise BackendError("a verdict does not say what was asked of its step", usage=verdicts.usage)
        return Brought(verdicts.usage, halt.reason if verdicts.pieces is None else None, verdicts=verdicts)


def _answers(sheet: Sheet, pieces: tuple[Looks, ...]) -> bool:
    """Whether each piece was looked at where the sheet says, and each look is of all tokens asked about."""
    if not all(pieces) or (sheet.place != "token" and any(len(looks) > 1 for looks in pieces)):
        return False
    return not sheet.ask or all(len(look) == len(sheet.ask) for looks in pieces for look in looks)


async def outcome(job: Job, halt: Halt, wish: Wish | Look) -> Settled:
    """What came of a wish: from the journal where it knows, else bought."""
    known = job.log.settled(wish.key, wish.request)
    if known is not None:
        return known
    job.go_live()
    log, key = job.log, job.log.attempt(wish.key)
    carried = log.carried(wish.key)
    left = wish.after(carried, log.last_lost(wish.key), job.models[wish.role])
    return whole(await _buy(job, halt, left, key), carried)


async def _buy(job: Job, halt: Halt, wish: Wish | Look, key: str) -> Settled:
    tokens = wish.tokens(job.models[wish.role].info)
    if tokens is None:
        return await _settle(job, wish, key, "refused", NOTHING, reason="context")
    ask = Ask(job.tariffs[wish.role], wish.prompt, *tokens)
    try:
        with await job.ledger.hold(ask, halt) as hold:
            await job.log.append(_held(job, wish, key, hold))
            return await _send(job, halt, wish, key, hold)
    except Refused as refusal:
        if refusal.reason == "suspended":
            await _parked(job)
        return await _settle(job, wish, key, "refused", NOTHING, reason=refusal.reason)


async def _parked(job: Job) -> NoReturn:
    """Where the calls of a suspended job stay until all others are settled: its strategy hears nothing that its journal
    does not know."""
    await job.let_go.wait()
    raise Suspended("the job was suspended; its journal goes on")


async def _send(job: Job, halt: Halt, wish: Wish | Look, key: str, hold: Hold) -> Settled:
    """Send a call under its hold, and settle it with whatever came of that."""
    settle = partial(_settle, job, wish, key)
    backend, tariff = job.models[wish.role], job.tariffs[wish.role]
    task, keeper = halt.watch(backend.info.grace), Keeper(job, key, wish)
    keep, seed = keeper if keeper.goes_on else None, number(f"{job.header.seed}/{wish.key}")
    try:
        brought = await wish.send(backend, _id(job, key), seed, hold, halt, keep)
    except BackendError as error:
        spend = hold.most if error.usage is None else tariff.spend(error.usage)
        hold.settle(spend)
        return await settle(
            "failed", spend, uncertain=error.usage.uncertain_tokens if error.usage else 0, error=str(error)
        )
    except UsageError as error:  # a server that refuses what it is asked has generated nothing
        hold.settle(NOTHING)
        await settle("failed", NOTHING, error=str(error))
        raise
    except asyncio.CancelledError:
        if halt.reason in (None, "suspended"):
            raise
        task.uncancel()
        hold.settle(hold.most)
        return await settle("abandoned", hold.most, reason=halt.reason)
    finally:
        halt.unwatch(task)
        await keeper.close()
    spend = tariff.spend(brought.usage)
    hold.settle(spend)
    if brought.reason == "suspended":
        await settle("lost", spend, uncertain=brought.usage.uncertain_tokens, segments=keeper.pieces(brought.segments))
        await _parked(job)
    return await settle(
        "completed",
        spend,
        uncertain=brought.usage.uncertain_tokens,
        reason=brought.reason,
        segments=brought.segments,
        verdicts=brought.verdicts,
    )


class Keeper:
    """Writes down what a call has generated so far, so that it need not be bought again if this process dies."""

    def __init__(self, job: Job, key: str, wish: Wish | Look) -> None:
        self._job, self._key = job, key
        self._stops = (*wish.until, *wish.sampling.stop) if isinstance(wish, Wish) else ()
        self._loop = asyncio.get_running_loop()
        can = job.models[wish.role].info.capabilities
        self.goes_on = isinstance(wish, Wish) and not wish.sampling.held and "continue" in can
        """Whether another call can take up what this one leaves."""
        self._kept: Completion | None = None
        self._pieces: list[Completion] = []
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    def __call__(self, completion: Completion) -> None:
        self._loop.call_soon_threadsafe(self._keep, completion)

    async def close(self) -> None:
        """Wait until nothing is being written; a journal that cannot be written says so with the settlement too."""
        self._closed = True
        if self._writing is not None:
            await asyncio.wait([self._writing])
            self._writing.exception()

    def pieces(self, brought: Sequence[Completion]) -> tuple[Completion, ...]:
        """All that a call has generated, as far as another one can go on from there: not from a text of which nobody
        says how much it was."""
        for completion in brought:
            counted = completion.usage.completion_tokens and completion.token_ids is not None
            if counted and self.goes_on and self._sound(completion.text):
                self._add(completion)
        return tuple(self._pieces)

    def _keep(self, completion: Completion) -> None:
        before = self._writing
        if self._closed or (before and (not before.done() or before.exception())) or not self._sound(completion.text):
            return
        checkpoint = Checkpoint(key=self._key, piece=self._add(completion), at=self._job.elapsed())
        self._writing = asyncio.create_task(self._job.log.append(checkpoint))

    def _add(self, completion: Completion) -> Completion:
        """The newest piece."""
        piece = completion.since(self._kept).model_copy(update={"finish": "until"})
        self._kept = completion
        self._pieces.append(piece)
        return piece

    def _sound(self, text: str) -> bool:
        """Whether a text can be cut here: not within a character, nor within what may become a stop string."""
        before = self._kept.text if self._kept else ""
        begun = any(text.endswith(stop[:n]) for stop in self._stops for n in range(1, len(stop)))
        return text.startswith(before) and not text.endswith("\ufffd") and not begun


def _held(job: Job, wish: Wish | Look, key: str, hold: Hold) -> Held:
    newest, forced = wish.newest
    return Held(
        key=key,
        role=wish.role,
        id=_id(job, key),
        request=wish.request,
        start=wish.start,
        parent=newest,
        forced=forced,
        granted=hold.granted,
        most=hold.most,
        at=job.elapsed(),
    )


def _id(job: Job, key: str) -> str:
    return f"{job.header.job}:{key};"


async def _settle(
    job: Job,
    wish: Wish | Look,
    key: str,
    outcome: Any,
    spend: Spend,
    *,
    uncertain: int = 0,
    reason: Reason | None = None,
    error: str | None = None,
    segments: tuple[Completion, ...] = (),
    verdicts: Verdicts | None = None,
) -> Settled:
    settled = Settled(
        key=key,
        role=wish.role,
        request=wish.request,
        outcome=outcome,
        reason=reason,
        error=error,
        segments=segments,
        verdicts=verdicts,
        spend=spend,
        uncertain=uncertain,
        remaining=job.remaining(),
        at=job.elapsed(),
    )
    await job.log.append(settled)
    return settled
