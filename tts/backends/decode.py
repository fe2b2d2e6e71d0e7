"""Decoding many continuations at once: a batch that rows join and leave between any two tokens.

Rows are aligned on the right: at every moment all rows end at the same column of the key-value tensors, and
what lies left of a row's own tokens is masked. A prompt that several rows share is prefilled once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tts.backends.base import Request
from tts.types import Completion, Finish, Usage

HEADROOM = 64
"""Columns added when the key-value tensors are full."""


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


class KeyValues:
    """Keys and values of all layers, [rows, heads, columns, size], written in place as the model runs.

    Has the one method of a transformers cache that a model calls.
    """

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.end = 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        width = keys.shape[2]
        if layer == len(self.layers):
            self.layers.append((keys, values))
            return keys, values
        old_keys, old_values = self.layers[layer]
        old_keys[:, :, self.end : self.end + width] = keys
        old_values[:, :, self.end : self.end + width] = values
        return old_keys[:, :, : self.end + width], old_values[:, :, : self.end + width]


class Batch:
    """Rows that are decoded together, one token each per `step`."""

    def __init__(self, model: Any, stop_ids: frozenset[int], text: Callable[[Row], str]) -> None:
        self._model, self._stop_ids, self._text = model, stop_ids, text
        self._head = model.get_output_embeddings().weight
        self.rows: list[Row] = []
        self._kv = KeyValues()

    def step(self, joining: list[Row]) -> None:
        """Give every row one token, then let `joining` in, with their first. Whoever has ended is no longer
        among the `rows` when it returns."""
        with torch.inference_mode():
            self._leave()
            if self.rows:
                self._extend()
            self._leave()
            self._join(joining)
            self._leave()

    def clear(self) -> None:
        self.rows, self._kv = [], KeyValues()

    def _extend(self) -> None:
        self._reserve()
        lengths = self._tensor([len(row.prompt) + len(row.ids) for row in self.rows])
        hidden = self._model.model(
            input_ids=self._tensor([row.ids[-1] for row in self.rows])[:, None],
            position_ids=lengths[:, None] - 1,
            attention_mask=self._visible(lengths),
            past_key_values=self._kv,
            use_cache=True,
        ).last_hidden_state[:, -1]
        self._kv.end += 1
        self._choose(self.rows, hidden)

    def _join(self, joining: list[Row]) -> None:
        """Prefill each distinct prompt once; its rows choose their first tokens from one distribution."""
        prompts: dict[tuple[int, ...], list[Row]] = {}
        for row in joining:
            prompts.setdefault(row.prompt, []).append(row)
        for prompt, asking in prompts.items():
            rows = [row for row in asking if not halted(row)]
            if not rows:
                continue
            fresh = KeyValues()
            positions = torch.arange(len(prompt), device=self._head.device)
            hidden = self._model.model(
                input_ids=self._tensor(prompt)[None],
                position_ids=positions[None],
                attention_mask=(positions[None] <= positions[:, None])[None, None],
                past_key_values=fresh,
                use_cache=True,
            ).last_hidden_state[:, -1]
            for row in rows[1:]:
                row.cached = len(prompt)
            self._admit(rows, fresh, len(prompt))
            self._choose(rows, hidden.expand(len(rows), -1))

    def _admit(self, rows: list[Row], fresh: KeyValues, length: int) -> None:
        """Put the prompt's keys and values before the common end, a copy for every row."""
        old_end, end = self._kv.end, max(self._kv.end, length)
        old = self._kv.layers or [(keys[:0], values[:0]) for keys, values in fresh.layers]

        def joined(present: Tensor, prompt: Tensor) -> Tensor:
            size = (present.shape[0] + len(rows), prompt.shape[1], end + HEADROOM, prompt.shape[3])
            # Zeros, because what is masked is still multiplied: by zero, which would keep a NaN.
            both = prompt.new_zeros(size)
            both[: present.shape[0], :, end - old_end : end] = present[:, :, :old_end]
            both[present.shape[0] :, :, end - length : end] = prompt
            return both

        self._kv.layers = [
            (joined(keys, new_keys), joined(values, new_values))
            for (keys, values), (new_keys, new_values) in zip(old, fresh.layers, strict=True)
        ]
        self._kv.end = end
        self.rows += rows

    def _visible(self, lengths: Tensor) -> Tensor:
        """[rows, 1, 1, columns]: true where a row's own tokens lie, the new one included."""
        columns = torch.arange(self._kv.end + 1, device=lengths.device)
        return (columns[None] > self._kv.end - lengths[:, None])[:, None, None]

    def _reserve(self) -> None:
        """Room for one more column."""
        if self._kv.end == self._kv.layers[0][0].shape[2]:
            pad = (0, 0, 0, HEADROOM)
            self._kv.layers = [
                (torch.nn.functional.pad(keys, pad), torch.nn.functional.pad(values, pad))
                for keys, values in self._kv.layers
            ]

    def _leave(self) -> None:
        """Take out the rows that are finished or halted, and the columns that only they had reached."""
        staying = [i for i, row in enumerate(self.rows) if row.finish is None and not halted(row)]
        if not staying:
            self.clear()
        elif len(staying) < len(self.rows):
            self.rows = [self.rows[i] for i in staying]
            chosen = self._tensor(staying)
            # All of a row is cached but its last token.
            first = self._kv.end - max(len(row.prompt) + len(row.ids) - 1 for row in self.rows)
            self._kv.layers = [(keys[chosen, :, first:], values[chosen, :, first:]) for keys, values in self._kv.layers]
            self._kv.end -= first

    def _choose(self, rows: list[Row], hidden: Tensor) -> None:
        """Draw each row's next token from its own stream of random numbers."""
        # Weight times state instead of state times weight: for few rows and a large vocabulary, twice as fast.
        logits = (self._head @ hidden.t()).t().float()
        logprobs = torch.log_softmax(logits, dim=-1)
        certainty = -logprobs.mean(dim=-1) - torch.log(torch.tensor(float(logits.shape[-1])))
        chosen = [_draw(each, row) for each, row in zip(logits, rows, strict=True)]
        taken = logprobs.gather(1, self._tensor(chosen)[:, None])[:, 0].tolist()
        for row, token, logprob, certain in zip(rows, chosen, taken, certainty.tolist(), strict=True):
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


def _draw(logits: Tensor, row: Row) -> int:
    """Inverse-transform sampling: one uniform number a token, so a row's draws do not depend on its batch."""
    sampling, uniform = row.request.sampling, row.uniform()
    if sampling.banned_ids:
        logits = logits.clone()
        logits[list(sampling.banned_ids)] = -torch.inf
    if sampling.temperature < 1e-6:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    if sampling.top_p < 1.0:
        _keep_nucleus(probabilities, sampling.top_p)
    cumulative = probabilities.cumsum(dim=-1)
    index = torch.searchsorted(cumulative, cumulative[-1] * uniform, right=True)
    return int(index.clamp(max=len(cumulative) - 1))


def _keep_nucleus(probabilities: Tensor, top_p: float) -> None:
    """Zero everything outside the smallest set that holds `top_p` (Holtzman et al. 2020, section 3.1)."""
    ordered, indices = probabilities.sort(descending=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    probabilities[indices[outside]] = 0.0
