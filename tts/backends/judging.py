"""Sheets: what a verifier wants read, as token ids and places to look at; and the batch that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from tts.backends.base import Reading
from tts.backends.lane import Halting
from tts.backends.prefill import Prefiller, Text, batches
from tts.backends.prompt import Prompter
from tts.errors import UsageError
from tts.types import Finish, Message, Sheet, Usage, Verdicts


@dataclass(frozen=True)
class Spelled:
    """A sheet as the model reads it: the ids, how many of them come before the first piece, and, of each piece that was
    not skipped, the places whose states say what comes next."""

    ids: tuple[int, ...]
    before: int
    places: tuple[tuple[int, ...], ...]

    @property
    def first(self) -> int:
        """The first place: states are wanted from here on."""
        return self.places[0][0]


def spell(sheet: Sheet, prompter: Prompter) -> Spelled:
    """Token ids of a sheet. A mark is one of the tokens of a piece's end only where the sheet puts it: the same letters
    in somebody's text are taken out of it by whoever writes the sheet."""
    before, parts = _turns(sheet, prompter) if sheet.turns else _marked(sheet, prompter)
    ids = [*before, *(i for piece, mark in parts for i in (*piece, *mark))]
    begins = accumulate((len(piece) + len(mark) for piece, mark in parts), initial=len(before))
    places = tuple(_places(sheet, begin, *map(len, part)) for begin, part in zip(begins, parts, strict=False))
    places = places[sheet.skip :]
    if any(not each or each[0] < 0 for each in places):
        raise UsageError("there is nothing to look at in an empty piece without a mark")
    # Nothing after the last place is read; what is read before the first is what several sheets may share.
    return Spelled(tuple(ids[: places[-1][-1] + 1]), min(len(before), places[0][0]), places)


def _places(sheet: Sheet, begin: int, piece: int, mark: int) -> tuple[int, ...]:
    """Where to look at a piece of so many tokens and at its mark's."""
    if sheet.place == "token":
        return tuple(range(begin, begin + piece + mark))
    return (begin + piece + (mark if sheet.place == "mark" else 0) - 1,)


Parts = list[tuple[list[int], list[int]]]
"""The ids of each piece and of its mark."""


def _marked(sheet: Sheet, prompter: Prompter) -> tuple[list[int], Parts]:
    if isinstance(sheet.before, str):
        before = list(prompter.opening)
        text = sheet.before
    else:
        before, text = list(prompter.start_ids(sheet.before)), ""
    special = prompter.token_id(sheet.mark) if sheet.mark else None
    if special is not None or not sheet.mark:
        mark = [] if special is None else [special]
        before += prompter.encode(text)
        return before, [(prompter.encode(piece), mark) for piece in sheet.pieces]
    return _spelled_through(sheet, before, text, prompter)


def _spelled_through(sheet: Sheet, before: list[int], text: str, prompter: Prompter) -> tuple[list[int], Parts]:
    """Where the mark is a word like others, the text is spelled as a whole, as the model has learnt to read it: some
    tokenizers spell a word differently where a text begins."""
    ending = prompter.encode(sheet.mark)[-1:]
    if prompter.decode(ending).strip() != sheet.mark.strip():
        raise UsageError(f"this tokenizer has no token for the mark {sheet.mark!r} that ends a step")
    (word,) = ending
    ids = prompter.encode(text + "".join(piece + sheet.mark for piece in sheet.pieces))
    ends = [i for i, token in enumerate(ids) if token == word]
    if len(ends) != len(sheet.pieces):
        raise UsageError(f"the mark {sheet.mark!r} stands {len(ends)} times in {len(sheet.pieces)} pieces")
    opening = len(prompter.encode(text)) if text else 0
    begins = [min(opening, ends[0]), *(end + 1 for end in ends[:-1])]
    parts = [(ids[begin:end], [word]) for begin, end in zip(begins, ends, strict=True)]
    return [*before, *ids[: begins[0]]], parts


def _turns(sheet: Sheet, prompter: Prompter) -> tuple[list[int], Parts]:
    """Each piece with the template's words up to the assistant's turn; the mark with those up to the next user's."""
    if isinstance(sheet.before, str):
        raise UsageError("a sheet of turns begins with messages, not with a text")
    turns = [
        message
        for piece in sheet.pieces
        for message in (Message(role="user", content=piece), Message(role="assistant", content=sheet.mark))
    ]
    ids, begins = prompter.conversation((*sheet.before, *turns))
    pieces, marks = begins[len(sheet.before) :: 2], begins[len(sheet.before) + 1 :: 2]
    ends = [*pieces[1:], len(ids)]
    return ids[: pieces[0]], [(ids[p:m], ids[m:e]) for p, m, e in zip(pieces, marks, ends, strict=True)]


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
