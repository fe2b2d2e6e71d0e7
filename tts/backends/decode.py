"""Decoding many continuations at once: a batch that rows join and leave between any two tokens.

Rows are aligned on the right: at every moment all rows end at the same column of the key-value tensors, and
what lies left of a row's own tokens is masked. A prompt that several rows share is prefilled once, also when they
come one after the other.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tts.backends.base import Request
from tts.backends.draw import draw
from tts.backends.keyvalues import KeyValues, Prompt, causal
from tts.types import Completion, Finish, Usage

REMEMBERED = 256 << 20
"""Bytes of prompts that are kept after their rows have gone, because more rows may come for them."""
SPARSE = 0.75
"""Slots are closed up when fewer of them than this are taken."""


@dataclass(eq=False)
class Row:
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


class Batch:
    """Rows that are decoded together, one token each per `step`."""

    def __init__(self, model: Any, stop_ids: frozenset[int], text: Callable[[Row], str]) -> None:
        self._model, self._stop_ids, self._text = model, stop_ids, text
        self._head = model.get_output_embeddings().weight
        self._slots: list[Row | None] = []
        self._kv = KeyValues()
        self._prompts: OrderedDict[tuple[str, tuple[int, ...]], Prompt] = OrderedDict()

    @property
    def rows(self) -> list[Row]:
        """The rows that are not through."""
        return [row for row in self._slots if row is not None]

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
        self._slots, self._kv = [], KeyValues()

    def _extend(self) -> None:
        self._kv.reserve([], len(self._slots), 0)
        # A slot without a row computes nonsense, but must look at something, or it would compute NaNs.
        width = self._kv.end - self._kv.first + 1
        lengths = self._tensor([width if row is None else len(row.prompt) + len(row.ids) for row in self._slots])
        hidden = self._model.model(
            input_ids=self._tensor([0 if row is None else row.ids[-1] for row in self._slots])[:, None],
            position_ids=lengths[:, None] - 1,
            attention_mask=self._visible(lengths, width),
            past_key_values=self._kv,
            use_cache=True,
        ).last_hidden_state[:, -1]
        self._kv.end += 1
        taken = [i for i, row in enumerate(self._slots) if row is not None]
        self._choose(self.rows, hidden if len(taken) == len(self._slots) else hidden[taken])

    def _join(self, joining: list[Row]) -> None:
        """Read each of a job's prompts once; its rows choose their first tokens from one distribution."""
        asking: dict[tuple[str, tuple[int, ...]], list[Row]] = {}
        for row in joining:
            asking.setdefault((row.request.job, row.prompt), []).append(row)
        for key, waiting in asking.items():
            rows = [row for row in waiting if not halted(row)]
            if rows:
                known = key in self._prompts
                prompt = self._prompt(key)
                for row in rows if known else rows[1:]:
                    row.cached = prompt.length
                self._admit(rows, prompt)
                assert prompt.hidden is not None
                self._choose(rows, prompt.hidden.expand(len(rows), -1))

    def _prompt(self, key: tuple[str, tuple[int, ...]]) -> Prompt:
        """The keys and values of a job's prompt, remembered while there is room."""
        if key not in self._prompts:
            ids = key[1]
            prompt = Prompt(len(ids))
            prompt.hidden = self._model.model(
                input_ids=self._tensor(ids)[None],
                position_ids=torch.arange(len(ids), device=self._head.device)[None],
                attention_mask=causal(len(ids), self._head.device),
                past_key_values=prompt,
                use_cache=True,
            ).last_hidden_state[:, -1]
            self._prompts[key] = prompt
        self._prompts.move_to_end(key)
        while len(self._prompts) > 1 and sum(each.size for each in self._prompts.values()) > REMEMBERED:
            self._prompts.popitem(last=False)
        return self._prompts[key]

    def _admit(self, rows: list[Row], prompt: Prompt) -> None:
        """Give every row a slot, with a copy of its prompt in it."""
        free = [i for i, row in enumerate(self._slots) if row is None][: len(rows)]
        places = [*free, *range(len(self._slots), len(self._slots) + len(rows) - len(free))]
        self._slots += [None] * (len(rows) - len(free))
        self._kv.reserve(prompt.layers, len(self._slots), prompt.length)
        self._kv.admit(prompt, places)
        for place, row in zip(places, rows, strict=True):
            self._slots[place] = row

    def _visible(self, lengths: Tensor, width: int) -> Tensor:
        """[slots, 1, 1, width]: true where a row's own tokens lie, the new one included."""
        columns = torch.arange(width, device=lengths.device)
        return (columns[None] >= width - lengths[:, None])[:, None, None]

    def _leave(self) -> None:
        """Let go of the rows that are finished or halted, and of the columns that only they had reached."""
        self._slots = [None if row is None or row.finish is not None or halted(row) else row for row in self._slots]
        staying = [i for i, row in enumerate(self._slots) if row is not None]
        if not staying:
            self.clear()
            return
        if len(staying) < SPARSE * len(self._slots):
            self._slots = [self._slots[i] for i in staying]
            self._kv.keep(self._tensor(staying))
        # All of a row is cached but its last token.
        self._kv.first = self._kv.end - max(len(row.prompt) + len(row.ids) - 1 for row in self.rows)

    def _choose(self, rows: list[Row], hidden: Tensor) -> None:
        """Draw each row's next token from its own stream of random numbers."""
        # Weight times state instead of state times weight: for few rows and a large vocabulary, twice as fast.
        logits = (self._head @ hidden.t()).t().float()
        logprobs = torch.log_softmax(logits, dim=-1)
        certainty = -logprobs.mean(dim=-1) - torch.log(torch.tensor(float(logits.shape[-1])))
        chosen = draw(logits, [row.request.sampling for row in rows], [row.uniform() for row in rows])
        taken = logprobs.gather(1, chosen[:, None])[:, 0].tolist()
        for row, token, logprob, certain in zip(rows, chosen.tolist(), taken, certainty.tolist(), strict=True):
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
        return "length" if row.made == request.max_tokens else None

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._head.device)


def halted(row: Row) -> bool:
    """Whether a row has to end now, with what it has."""
    if row.finish is None and (row.abandoned or row.request.halt.reason is not None):
        row.finish = "halted"
    return row.finish == "halted"


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
