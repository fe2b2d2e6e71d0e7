"""The batch that reads sheets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tts.backends.base import Reading
from tts.backends.lane import Halting
from tts.backends.prefill import Prefiller, Text, batches
from tts.backends.spelling import Spelled
from tts.types import Finish, Usage, Verdicts


@dataclass(eq=False)
class Row(Halting):
    """One sheet on its way."""

    request: Reading
    sheet: Spelled
    ask: tuple[int, ...]
    began: float
    read: int = 0
    """Tokens that were read for it, and of these `cached` not by it: fewer than it has where a halt came between."""
    cached: int = 0
    made: int = 0
    finish: Finish | None = None
    abandoned: bool = False
    pieces: tuple[tuple[tuple[float, ...], ...], ...] | None = None

    def verdicts(self, seconds: float) -> Verdicts:
        """What it has come to."""
        usage = Usage.of(prompt=self.read, cached=self.cached, completion=0, seconds=seconds)
        return Verdicts(pieces=self.pieces, usage=usage)


class Judging:
    """Reads all sheets that are there at once, and is through with them when `step` returns."""

    def __init__(self, model: Any) -> None:
        head = model.get_output_embeddings()
        self._head, self._classes = (model.score, True) if head is None else (head, False)
        self._prefiller = Prefiller(model)
        self.rows: list[Row] = []

    def step(self, joining: list[Row]) -> None:
        """Answer for `joining`, but for those that are halted before their turn comes."""
        with torch.inference_mode():
            self._read_beginnings([row for row in joining if not row.over])
            for rows in batches(joining, lambda row: len(row.sheet.ids)):
                self._read([row for row in rows if not row.over])

    def clear(self) -> None:
        """Nothing is kept between steps but what was read."""

    def _read_beginnings(self, rows: list[Row]) -> None:
        """What several sheets of a job begin with is read once, for the first of those that know less."""
        fresh: dict[tuple[str, tuple[int, ...]], Row] = {}
        for row in rows:
            job, before = row.request.job, row.sheet.ids[: row.sheet.before]
            found = self._prefiller.prefixes.longest(job, row.sheet.ids, row.sheet.first)
            if before and (found is None or found.length < len(before)):
                fresh.setdefault((job, before), row)
        read = self._prefiller.read([Text(job, before, len(before) - 1) for job, before in fresh])
        for row, each in zip(fresh.values(), read, strict=True):
            row.read, row.cached = row.sheet.before, each.cached

    def _read(self, rows: list[Row]) -> None:
        texts = [Text(row.request.job, row.sheet.ids, row.sheet.first) for row in rows]
        for row, found in zip(rows, self._prefiller.read(texts), strict=True):
            if not row.read:  # else it has paid for its beginning
                row.cached = found.cached
            row.read = len(row.sheet.ids)
            row.pieces = self._said(row, found.hidden)
            row.finish = "stop"

    def _said(self, row: Row, hidden: Tensor) -> tuple[tuple[tuple[float, ...], ...], ...]:
        places = [place - row.sheet.first for places in row.sheet.places for place in places]
        logits = self._head(hidden[places]).float()
        values = logits if self._classes else logits.log_softmax(-1)[:, list(row.ask)]
        told = iter(tuple(each) for each in values.tolist())
        return tuple(tuple(next(told) for _ in places) for places in row.sheet.places)
