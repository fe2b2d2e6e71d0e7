"""Reading texts: several at once, each going on from the longest part of it that was read before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from tts.backends.keyvalues import Prefix, Prefixes, Reading, visible

T = TypeVar("T")
TOKENS_AT_ONCE = 8192
"""Places of a batch, padding included: what one pass of the model may hold."""


class Text(NamedTuple):
    """What is to be read for a job. States are wanted from place `since` on, so that much less is taken from memory."""

    job: str
    ids: tuple[int, ...]
    since: int


class Read(NamedTuple):
    """The states of a text from place `since` on, [tokens, width], and how many of its tokens were read before."""

    hidden: Tensor
    cached: int


class Prefiller:
    """Reads for one lane of a backend, and remembers."""

    def __init__(self, model: Any) -> None:
        self.model, self.prefixes = model, Prefixes()
        self.device = next(model.parameters()).device
        config = model.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.like = torch.zeros(
            config.num_hidden_layers, 2, config.num_key_value_heads, 0, size, device=self.device, dtype=model.dtype
        )

    def read(self, texts: Sequence[Text]) -> list[Read]:
        """Every text's states; all of them are remembered."""
        found: list[Read] = []
        for batch in batches(texts, lambda text: len(text.ids)):
            found += self._read(batch)
        return found

    def _read(self, texts: Sequence[Text]) -> list[Read]:
        prefixes = [self.prefixes.longest(text.job, text.ids, text.since) for text in texts]
        known = [prefix.length if prefix else 0 for prefix in prefixes]
        fresh = [text.ids[begin:] for text, begin in zip(texts, known, strict=True)]
        width = max(map(len, fresh))
        cache = Reading(self.like, prefixes, width)
        lengths = torch.tensor(known, device=self.device)
        hidden = self.model.model(
            input_ids=torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in fresh], device=self.device),
            position_ids=lengths[:, None] + torch.arange(width, device=self.device),
            attention_mask=visible(lengths, cache.known, width),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        found = []
        for row, (text, prefix, begin, ids) in enumerate(zip(texts, prefixes, known, fresh, strict=True)):
            states = hidden[row, : len(ids)]
            self.prefixes.add(text.job, text.ids, Prefix(prefix, cache.added(row, len(ids)), states[-1:].clone()))
            found.append(Read(states[text.since - begin :], begin))
        return found


def batches(texts: Sequence[T], length: Callable[[T], int]) -> list[list[T]]:
    """As many texts at once as there is room for, in their order."""
    found: list[list[T]] = []
    width = 0
    for text in texts:
        width = max(width, length(text))
        if not found or (len(found[-1]) + 1) * width > TOKENS_AT_ONCE:
            found.append([])
            width = length(text)
        found[-1].append(text)
    return found
