"""The keys and values of a batch: slots that rows move into and out of without anybody else being copied."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

HEADROOM = 64
"""Columns to spare whenever the tensors are laid out anew."""

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [slots, heads, columns, size]."""


class Prompt:
    """A prompt's keys and values as one prefill leaves them, and the hidden state after its last token.

    Has the one method of a transformers cache that a model calls.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.layers: Layers = []
        self.hidden: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.layers.append((keys, values))
        return keys, values

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(tensor.nbytes for pair in self.layers for tensor in pair)


class KeyValues:
    """All slots end at the same column, `end`, and nobody's tokens lie before `first`. Written in place as the model
    runs; what a row left behind in its slot is masked, or overwritten by the next one's prompt."""

    def __init__(self) -> None:
        self.layers: Layers = []
        self.slots = self.first = self.end = 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one more column and give the model all there are."""
        old_keys, old_values = self.layers[layer]
        old_keys[: self.slots, :, self.end] = keys[:, :, 0]
        old_values[: self.slots, :, self.end] = values[:, :, 0]
        window = (slice(self.slots), slice(None), slice(self.first, self.end + 1))
        return old_keys[window], old_values[window]

    def admit(self, prompt: Prompt, places: list[int]) -> None:
        """Put a prompt before the common end, a copy in each of these slots; `reserve` made room for it."""
        for mine, theirs in zip(self.layers, prompt.layers, strict=True):
            for ours, fresh in zip(mine, theirs, strict=True):
                ours[places, :, self.end - prompt.length : self.end] = fresh
        self.first = min(self.first, self.end - prompt.length)

    def reserve(self, like: Layers, slots: int, length: int) -> None:
        """Room for that many slots, for prompts of that `length`, and for one more column."""
        if not self.layers:
            self.layers = [(keys[:0, :, :0], values[:0, :, :0]) for keys, values in like]
        rows, _, columns, _ = self.layers[0][0].shape
        if slots > rows or length > self.end or self.end == columns:
            self._lay_out(rows if slots <= rows else slots + slots // 4, max(length, self.end - self.first))
        self.slots = max(self.slots, slots)

    def keep(self, chosen: Tensor) -> None:
        """Only these slots, in this order."""
        self.layers = [(keys[chosen], values[chosen]) for keys, values in self.layers]
        self.slots = len(chosen)

    def _lay_out(self, rows: int, width: int) -> None:
        """New tensors whose common end is `width`, and the old contents in them."""
        old = (slice(self.slots), slice(None), slice(self.first, self.end))
        new = (slice(self.slots), slice(None), slice(width - (self.end - self.first), width))

        def moved(tensor: Tensor) -> Tensor:
            # Zeros, because what is masked is still multiplied: by zero, which would keep a NaN.
            fresh = tensor.new_zeros(rows, tensor.shape[1], width + HEADROOM, tensor.shape[3])
            fresh[new] = tensor[old]
            return fresh

        self.layers = [(moved(keys), moved(values)) for keys, values in self.layers]
        self.first, self.end = new[2].start, width


def causal(length: int, device: torch.device) -> Tensor:
    """[1, 1, length, length]: true where a token of a prompt may look."""
    positions = torch.arange(length, device=device)
    return (positions[None] <= positions[:, None])[None, None]
