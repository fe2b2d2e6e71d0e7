"""One call on its way, over however many replicas it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tts.backends.base import CHECKPOINT, Request
from tts.backends.prompt import Prompter
from tts.backends.sglang.warmth import Chain, chain
from tts.backends.sglang.wire import Said, said
from tts.types import Completion, Finish, Usage

FEWEST, CHUNKS = 16, 32
"""Tokens between two pieces of a stream, at the least, and about how many pieces a long text comes in: a server sends
all there is so far with every piece, so many pieces are much."""


@dataclass(eq=False)
class Draft:
    """A continuation: what was delivered of it, and what it has cost. A replica that takes over goes on from there."""

    request: Request
    parts: tuple[Sequence[int], ...]
    prompter: Prompter
    ids: tuple[int, ...] = ()
    logprob: float | None = 0.0
    made: int = 0
    finish: Finish | None = None
    attempts: int = 0
    _read: int = 0
    _cached: int = 0
    _uncertain: int = 0
    _withheld: int = 0
    _resumed: int = 0
    """Ids that an earlier replica had delivered."""

    def __post_init__(self) -> None:
        self.prompt = tuple(i for part in self.parts for i in part)
        self.links: Chain = chain(self.parts)

    @property
    def id(self) -> str:
        """The request's id; another one for every attempt, none of which begins another's."""
        return attempt_id(self.request.id, self.attempts)

    @property
    def interval(self) -> int:
        """How many tokens a server may keep before it sends them."""
        return 1 if self.request.watch else max(FEWEST, self.request.max_tokens // CHUNKS)

    @property
    def left(self) -> int:
        """How many tokens may still be asked for."""
        return self.request.max_tokens - self.made - self._withheld

    def context(self) -> tuple[int, ...]:
        """What is to be continued."""
        return (*self.prompt, *self.ids)

    def take(self, told: Said) -> None:
        """All that a replica has delivered, when it has ended."""
        self._deliver(told)
        self.finish = self._finish(told)
        if self.finish == "stop" and self.ids and self.ids[-1] == (told.finish or {}).get("matched"):
            self.ids = self.ids[:-1]
        if self._resumed and self.finish in ("stop", "until", "length"):
            self._cut_at_stop()

    def lose(self, told: Said | None, *, started: bool) -> None:
        """A replica failed after it had delivered this. It may have generated up to the rest of the grant; what it can
        have generated if it died at that moment is not asked for again, so that the grant holds."""
        if told is not None:
            self._deliver(told)
        if self.request.sampling.held:  # a grammar cannot take up where another one was
            self.ids, self.logprob = (), 0.0
        if started:
            rest = max(0, self.left)
            self._uncertain += rest
            self._withheld += min(rest, 2 * self.interval)
        self._resumed = len(self.ids)
        if self.left < 1:
            self.finish = "length"

    def watched(self, events: Sequence[bytes], *, deltas: bool) -> bool:
        """Whether the caller has seen enough."""
        watch = self.request.watch
        return watch is not None and watch(self.so_far(events, "watched", deltas=deltas))

    def keep(self, events: Sequence[bytes], came: int, *, deltas: bool) -> None:
        """Tell the caller now and then what there is; `came` counts the pieces of the stream."""
        every = max(1, CHECKPOINT // self.interval)
        if self.request.keep and came % every == 0:
            self.request.keep(self.so_far(events, "until", deltas=deltas))

    def so_far(self, events: Sequence[bytes], finish: Finish, *, deltas: bool) -> Completion:
        """What it would be if it ended here."""
        draft = Draft(self.request, self.parts, self.prompter, self.ids, self.logprob, self.made)
        draft._read, draft._cached = self._read, self._cached
        draft._deliver(said(events, deltas=deltas))
        draft.finish = finish
        return draft.completion(0.0)

    def completion(self, seconds: float) -> Completion:
        """What it has come to."""
        assert self.finish is not None
        return Completion(
            text=self.text,
            token_ids=self.ids,
            logprob=self.logprob if self.request.sampling.logprobs else None,
            self_certainty=None,
            finish=self.finish,
            usage=self.usage(seconds),
        )

    @property
    def text(self) -> str:
        return self.prompter.decode(self.ids, self.prompt)

    def usage(self, seconds: float) -> Usage:
        """What is known to have been read and generated; a prompt that two replicas read counts twice."""
        usage = Usage.of(prompt=self._read, cached=self._cached, completion=self.made, seconds=seconds)
        return usage.model_copy(update={"uncertain_tokens": self._uncertain})

    def _deliver(self, told: Said) -> None:
        self.ids += told.ids
        self.made += told.made
        self.logprob = None if self.logprob is None or told.logprob is None else self.logprob + told.logprob
        if told.made:  # what was aborted in the queue has read nothing
            self._read += len(self.prompt) + self._resumed
            self._cached += told.cached

    def _finish(self, told: Said) -> Finish:
        reason: Any = told.finish or {}
        if reason.get("type") == "length":
            return "length"
        if reason.get("type") == "abort":
            return "halted"
        stopped = reason.get("matched") not in self.request.until
        return "stop" if stopped or reason["matched"] in self.request.sampling.stop else "until"

    def _cut_at_stop(self) -> None:
        """A server that took over does not see a stop string that began before it."""
        sampling = self.request.sampling
        for end in range(self._resumed + 1, len(self.ids) + 1):
            text = self.prompter.decode(self.ids[:end], self.prompt)
            ended = [f for stops, f in ((sampling.stop, "stop"), (self.request.until, "until")) if _in(stops, text)]
            if ended:
                self.ids, self.finish = self.ids[:end], ended[0]  # type: ignore[assignment]
                return


def attempt_id(id: str, attempt: int) -> str:
    """The name by which a server knows one attempt at a request."""
    return f"{id}{attempt:02};"


def _in(stops: Sequence[str], text: str) -> bool:
    return any(stop in text for stop in stops)
