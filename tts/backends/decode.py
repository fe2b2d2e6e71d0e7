"""Decoding many continuations at once: a batch that rows join and leave between any two tokens.

Rows are aligned on the right: at every moment all rows end at the same column of the key-value tensors, and
what lies left of a row's own tokens is masked. A prompt that several rows share is prefilled once, also when they
come one after the other; and a row that goes on where another one ended a step finds that one's keys and values.
Rows that were the same so far are twins: they share a slot and what it computes until they draw different tokens. Many
samples of one prompt begin alike, so this is most of the work.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tts.backends.base import CHECKPOINT, Request
from tts.backends.draw import draw
from tts.backends.keyvalues import KeyValues, Prefix
from tts.backends.lane import Halting
from tts.backends.prefill import Prefiller, Text
from tts.types import Completion, Finish, Usage

SPARSE = 0.75
"""Slots are closed up when fewer of them than this are taken."""


@dataclass(eq=False)
class Row(Halting):
    """One continuation on its way."""

    request: Request
    prompt: tuple[int, ...]
    began: float
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    certainty: float = 0.0
    cached: int = 0
    made: int = 0
    """Tokens generated: the ids, and an end-of-text token if there was one."""
    finish: Finish | None = None
    abandoned: bool = False
    """Nobody waits for it any more."""

    def __post_init__(self) -> None:
        self.uniform = random.Random(self.request.seed).random
        self.prefix: Prefix | None = None
        """What of its prompt was known when it joined."""

    @property
    def newest(self) -> int:
        """The token that is read next."""
        return self.ids[-1] if self.ids else self.prompt[-1]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.ids)


class Batch:
    """Rows that are decoded together, one token each per `step`."""

    def __init__(self, model: Any, stop_ids: frozenset[int], text: Callable[[Row], str]) -> None:
        self._model, self._stop_ids, self._text = model, stop_ids, text
        self._head = model.get_output_embeddings().weight
        self._slots: list[list[Row]] = []
        """Twins; none where a slot is free."""
        self._prefiller = Prefiller(model)
        self._kv = KeyValues(self._prefiller.like)

    @property
    def rows(self) -> list[Row]:
        """The rows that are not through."""
        return [row for twins in self._slots for row in twins]

    @property
    def resident(self) -> int:
        """Tokens whose keys and values are kept: of rows on their way, and of texts that more rows may come for."""
        return self._prefiller.prefixes.tokens + sum(row.length for twins in tuple(self._slots) for row in twins[:1])

    def step(self, joining: list[Row]) -> None:
        """Give every row one token, then let `joining` in, with their first. Whoever has ended is no longer
        among the `rows` when it returns."""
        with torch.inference_mode():
            self._leave()
            if self._slots:
                self._extend()
            self._leave()
            self._join(joining)
            self._leave()

    def clear(self) -> None:
        self._slots, self._kv = [], KeyValues(self._prefiller.like)

    def _extend(self) -> None:
        self._kv.reserve(len(self._slots), 0)
        # A slot without a row computes nonsense, but must look at something, or it would compute NaNs.
        width = self._kv.end - self._kv.first + 1
        lengths = self._tensor([twins[0].length if twins else width for twins in self._slots])
        hidden = self._model.model(
            input_ids=self._tensor([twins[0].newest if twins else 0 for twins in self._slots])[:, None],
            position_ids=lengths[:, None] - 1,
            attention_mask=self._visible(lengths, width),
            past_key_values=self._kv,
            use_cache=True,
        ).last_hidden_state[:, -1]
        self._kv.end += 1
        taken = [place for place, twins in enumerate(self._slots) if twins]
        self._choose([self._slots[place] for place in taken], hidden[taken])

    def _join(self, joining: list[Row]) -> None:
        """Let rows in. Where all of a prompt but its last token is known, its rows read that token with the next step;
        else it is read once, and all of its rows choose their first tokens from one distribution."""
        asking: dict[tuple[str, tuple[int, ...]], list[Row]] = {}
        for row in joining:
            asking.setdefault((row.request.job, row.prompt), []).append(row)
        for (job, prompt), waiting in asking.items():
            rows = [row for row in waiting if not row.over]
            if not rows:
                continue
            prefixes = self._prefiller.prefixes
            known = prefixes.longest(job, prompt, len(prompt))
            before = known.length if known else 0
            if known is None or before < len(prompt) - 1 or (before == len(prompt) and known.hidden is None):
                (read,) = self._prefiller.read([Text(job, prompt, len(prompt) - 1)])
                known, before = prefixes.longest(job, prompt, len(prompt)), read.cached
            assert known is not None
            rows[0].cached = before
            for row in rows[1:]:
                row.cached = known.length
            self._kv.admit(known, self._place(rows, known.length))
            for row in rows:
                row.prefix = known
            if known.length == len(prompt):
                assert known.hidden is not None
                self._choose([rows], known.hidden)

    def _place(self, twins: list[Row], length: int) -> int:
        """The slot that these rows get, with room for so many tokens before the common end."""
        place = next((place for place, rows in enumerate(self._slots) if not rows), len(self._slots))
        self._slots[place : place + 1] = [twins]
        self._kv.reserve(len(self._slots), length)
        return place

    def _visible(self, lengths: Tensor, width: int) -> Tensor:
        """[slots, 1, 1, width]: true where a row's own tokens lie, the new one included."""
        columns = torch.arange(width, device=lengths.device)
        return (columns[None] >= width - lengths[:, None])[:, None, None]

    def _leave(self) -> None:
        """Let go of the rows that are finished or halted, and of the columns that only they had reached; and part the
        twins that have become different."""
        for place, twins in enumerate(self._slots):
            for row in twins:
                if row.finish is not None or row.over:
                    self._remember(place, row)
            self._slots[place] = [row for row in twins if row.finish is None]
        self._part()
        staying = [place for place, twins in enumerate(self._slots) if twins]
        if not staying:
            self.clear()
            return
        if len(staying) < SPARSE * len(self._slots):
            self._slots = [self._slots[place] for place in staying]
            self._kv.keep(self._tensor(staying))
        # All of a row is cached but its last token.
        self._kv.first = self._kv.end - max(twins[0].length - 1 for twins in self._slots if twins)

    def _part(self) -> None:
        """Give twins that drew different tokens slots of their own, with copies of what they have in common."""
        for place in range(len(self._slots)):
            groups: dict[int, list[Row]] = {}
            for row in self._slots[place]:
                groups.setdefault(row.newest, []).append(row)
            staying, *others = groups.values() if groups else [[]]
            self._slots[place] = staying
            for group in others:
                self._kv.copy(place, self._place(group, 0), group[0].length - 1)

    def _remember(self, place: int, row: Row) -> None:
        """Keep what a row has read, all but its last token, where somebody may go on from there."""
        ids, prefixes = (*row.prompt, *row.ids)[:-1], self._prefiller.prefixes
        assert row.prefix is not None
        added = len(ids) - row.prefix.length
        if row.finish == "stop" or added <= 0:
            return
        if not prefixes.knows(row.request.job, ids):
            prefixes.add(row.request.job, ids, Prefix(row.prefix, self._kv.taken(place, added)))

    def _choose(self, groups: list[list[Row]], hidden: Tensor) -> None:
        """Draw each row's next token from its own stream of random numbers; twins draw from one distribution."""
        # Weight times state instead of state times weight: for few rows and a large vocabulary, twice as fast.
        logits = (self._head @ hidden.t()).t().float()
        logprobs = torch.log_softmax(logits, dim=-1)
        certainty = -logprobs.mean(dim=-1) - torch.log(torch.tensor(float(logits.shape[-1])))
        rows = [row for twins in groups for row in twins]
        own = self._tensor([i for i, twins in enumerate(groups) for _ in twins])
        chosen = draw(logits[own], [row.request.sampling for row in rows], [row.uniform() for row in rows])
        taken, sure = logprobs[own, chosen].tolist(), certainty[own].tolist()
        for row, token, logprob, certain in zip(rows, chosen.tolist(), taken, sure, strict=True):
            row.made += 1
            row.logprob += logprob
            row.certainty += certain
            row.finish = self._finish(row, token)

    def _finish(self, row: Row, token: int) -> Finish | None:
        """Add a token to its row; why the row ends with it, if it does."""
        request = row.request
        if token in self._stop_ids or token in request.sampling.stop_ids:
            return "stop"
        row.ids.append(token)
        if request.sampling.stop or request.until or request.watch:
            ended = _ended_by_text(row, self._text(row))
            if ended is not None:
                return ended
        if row.made == request.max_tokens:
            return "length"
        if request.keep and row.made % CHECKPOINT == 0:
            request.keep(completion_of(row, self._text(row), "until", time.perf_counter() - row.began))
        return None

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._head.device)


def _ended_by_text(row: Row, text: str) -> Finish | None:
    request = row.request
    if any(stop in text for stop in request.sampling.stop):
        return "stop"
    if any(stop in text for stop in request.until):
        return "until"
    if request.watch is not None and request.watch(completion_of(row, text, "watched", 0.0)):
        return "watched"
    return None


def completion_of(row: Row, text: str, finish: Finish, seconds: float) -> Completion:
    """What a row has come to."""
    usage = Usage.of(prompt=len(row.prompt), cached=row.cached, completion=row.made, seconds=seconds)
    return Completion(
        text=text,
        token_ids=tuple(row.ids),
        logprob=row.logprob,
        self_certainty=row.certainty / row.made if row.made else None,
        finish=finish,
        usage=usage,
    )
