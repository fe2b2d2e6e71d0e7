"""Keys and values: what texts have in common is kept once, and rows get copies of it in slots of a batch.

All tensors are [layers, 2, …, heads, columns, size]: keys at 0, values at 1.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from typing import Any

import torch
from torch import Tensor

HEADROOM = 64
"""Columns to spare whenever the tensors are laid out anew."""
REMEMBERED = 1 << 30
"""Bytes of texts that are kept after their rows have gone, because more rows may come for them."""


class Prefix:
    """A text as a model has read it: what it adds to its parent's text.

    `hidden` is the state after the last token, [1, width], where somebody may choose a next token from it.
    """

    def __init__(self, parent: Prefix | None, added: Tensor, hidden: Tensor | None = None) -> None:
        self.parent, self.added, self.hidden = parent, added, hidden
        self.length: int = added.shape[-2] + (parent.length if parent else 0)

    def write(self, columns: Tensor) -> None:
        """Into [layers, 2, heads, columns, size], so that the last token is in the last column."""
        end = columns.shape[-2]
        part: Prefix | None = self
        while part is not None:
            begin = end - part.added.shape[-2]
            columns[..., begin:end, :] = part.added
            part, end = part.parent, begin


class Prefixes:
    """The texts that were read for each job, the longest unused forgotten first. What one job costs must not depend on
    another one's having been there before, so each sees its own."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, tuple[int, ...]], Prefix] = OrderedDict()
        self._lengths: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._size = self.tokens = 0

    def add(self, job: str, ids: tuple[int, ...], prefix: Prefix) -> None:
        """Remember a text, and forget others where there is no room."""
        self._forget((job, ids))
        self._known[job, ids] = prefix
        self._lengths[job][len(ids)] += 1
        self._size += prefix.added.nbytes
        self.tokens += prefix.added.shape[-2]
        while self._size > REMEMBERED and len(self._known) > 1:
            self._forget(next(iter(self._known)))

    def knows(self, job: str, ids: tuple[int, ...]) -> bool:
        """Whether this very text was read."""
        return (job, ids) in self._known

    def longest(self, job: str, ids: tuple[int, ...], most: int) -> Prefix | None:
        """The longest known text, of at most so many tokens, with which `ids` begin."""
        for length in sorted(self._lengths.get(job, ()), reverse=True):
            key = job, ids[:length]
            if length <= min(most, len(ids)) and key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        return None

    def _forget(self, key: tuple[str, tuple[int, ...]]) -> None:
        prefix = self._known.pop(key, None)
        if prefix is None:
            return
        job, ids = key
        self._size -= prefix.added.nbytes
        self.tokens -= prefix.added.shape[-2]
        lengths = self._lengths[job]
        lengths[len(ids)] -= 1
        if not lengths[len(ids)]:
            del lengths[len(ids)]
        if not lengths:
            del self._lengths[job]


class Reading:
    """The keys and values of texts while a model reads on in them: [rows] prefixes that end at column `known`, and room
    for as many new columns. Has the one method of a transformers cache that a model calls."""

    def __init__(self, like: Tensor, prefixes: list[Prefix | None], added: int) -> None:
        layers, two, heads, _, size = like.shape
        self.known = max((prefix.length for prefix in prefixes if prefix), default=0)
        # Zeros, because what is masked is still multiplied: by zero, which would keep a NaN.
        self.tensor = like.new_zeros(layers, two, len(prefixes), heads, self.known + added, size)
        for row, prefix in enumerate(prefixes):
            if prefix:
                prefix.write(self.tensor[:, :, row, :, : self.known])

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.tensor[layer, 0][..., self.known :, :] = keys
        self.tensor[layer, 1][..., self.known :, :] = values
        return self.tensor[layer, 0], self.tensor[layer, 1]

    def added(self, row: int, tokens: int) -> Tensor:
        """The first so many new columns of a row."""
        return self.tensor[:, :, row, :, self.known : self.known + tokens].clone()


class KeyValues:
    """All slots end at the same column, `end`, and nobody's tokens lie before `first`. Written in place as the model
    runs; what a row left behind in its slot is masked, or overwritten by the next one's prompt."""

    def __init__(self, like: Tensor) -> None:
        layers, two, heads, _, size = like.shape
        self._tensor = like.new_zeros(layers, two, 0, heads, 0, size)
        self.slots = self.first = self.end = 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one more column and give the model all there are."""
        old_keys, old_values = self._tensor[layer, 0, : self.slots], self._tensor[layer, 1, : self.slots]
        old_keys[:, :, self.end] = keys[:, :, 0]
        old_values[:, :, self.end] = values[:, :, 0]
        window = slice(self.first, self.end + 1)
        return old_keys[:, :, window], old_values[:, :, window]

    def admit(self, prefix: Prefix, place: int) -> None:
        """Put a text before the common end, in this slot; `reserve` made room for it."""
        begin = self.end - prefix.length
        prefix.write(self._tensor[:, :, place, :, begin : self.end])
        self.first = min(self.first, begin)

    def copy(self, place: int, other: int, tokens: int) -> None:
        """The newest columns of a slot into another one."""
        window = slice(self.end - tokens, self.end)
        self._tensor[:, :, other, :, window] = self._tensor[:, :, place, :, window]

    def taken(self, place: int, tokens: int) -> Tensor:
        """The newest columns of a slot."""
        return self._tensor[:, :, place, :, self.end - tokens : self.end].clone()

    def reserve(self, slots: int, length: int) -> None:
        """Room for that many slots, for texts of that `length`, and for one more column."""
        rows, columns = self._tensor.shape[2], self._tensor.shape[4]
        if slots > rows or length > self.end or self.end == columns:
            self._lay_out(rows if slots <= rows else slots + slots // 4, max(length, self.end - self.first))
        self.slots = max(self.slots, slots)

    def keep(self, chosen: Tensor) -> None:
        """Only these slots, in this order."""
        self._tensor = self._tensor[:, :, chosen]
        self.slots = len(chosen)

    def _lay_out(self, rows: int, width: int) -> None:
        """A new tensor whose common end is `width`, and the old contents in it."""
        layers, two, _, heads, _, size = self._tensor.shape
        fresh = self._tensor.new_zeros(layers, two, rows, heads, width + HEADROOM, size)
        begin = width - (self.end - self.first)
        fresh[:, :, : self.slots, :, begin:width] = self._tensor[:, :, : self.slots, :, self.first : self.end]
        self._tensor, self.first, self.end = fresh, begin, width


def visible(lengths: Tensor, known: int, added: int) -> Tensor:
    """[rows, 1, added, known + added]: what each new token of a row may look at. A row's known `lengths` tokens end at
    column `known`; its new ones follow."""
    columns = torch.arange(known + added, device=lengths.device)
    fresh = torch.arange(added, device=lengths.device)
    own = columns[None] >= known - lengths[:, None]
    return (own[:, None] & (columns[None] <= known + fresh[:, None])[None])[:, None]
