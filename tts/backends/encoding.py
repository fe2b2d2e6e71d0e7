"""A sentence encoder in this process: it says of a text what it means, as a direction."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path as File
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from tokenizers import Tokenizer

from tts.backends import weights
from tts.backends.base import Reading, Request
from tts.backends.judging import Row
from tts.backends.lane import Lane
from tts.backends.local import MAX_SHEETS, info_of
from tts.backends.prefill import batches
from tts.backends.spelling import Spelled
from tts.errors import UsageError
from tts.types import Completion, Path, Sheet, Verdicts

DIGITS = 4
"""Of each number, which lies between -1 and 1: a journal need not hold more, and clusters do not turn on it."""


class EncoderBackend:
    """Loads a BERT model with its sentence-transformers settings, such as all-MiniLM-L6-v2. What it says of a sheet's
    one piece is the mean of its tokens' last states, of length one (Reimers and Gurevych 2019, "Sentence-BERT").

    Nothing is cut to the model's length: a text that is too long is refused like any prompt.
    """

    def __init__(self, folder: File) -> None:
        pooling = folder / "1_Pooling" / "config.json"
        if pooling.is_file() and not weights.read_json(pooling).get("pooling_mode_mean_tokens"):
            raise UsageError(f"{folder} does not take the mean of its states, and nothing else is done here")
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception for a broken file
            raise UsageError(f"cannot read the tokenizer in {folder}: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        model = weights.load_model(folder, weights.read_json(folder / "config.json"), "cpu")
        self.info = info_of(model, folder.name, folder)
        self._ids = lru_cache(maxsize=4096)(lambda text: tuple(tokenizer.encode(text).ids))
        self._lane = Lane(self.info.name, Encoding(model), MAX_SHEETS, torch.get_num_threads())

    def prompt_tokens(self, path: Path) -> int:
        raise self._writes_nothing()

    async def generate(self, request: Request) -> Completion:
        raise self._writes_nothing()

    def sheet_tokens(self, sheet: Sheet) -> int:
        if sheet.before or sheet.ask or sheet.mark or len(sheet.pieces) > 1:
            raise UsageError(f"{self.info.name} says what a text means, and nothing of its steps; it is no verifier")
        return len(self._ids(sheet.pieces[0]))

    async def read(self, reading: Reading) -> Verdicts:
        ids = self._ids(reading.sheet.pieces[0])
        row = Row(reading, Spelled(ids, 0, ((len(ids) - 1,),)), (), time.perf_counter())
        await self._lane.finish(row)
        return row.verdicts(time.perf_counter() - row.began)

    def _writes_nothing(self) -> UsageError:
        return UsageError(f"{self.info.name} is a sentence encoder and writes no text; it cannot be a policy")


class Encoding:
    """Reads all texts that are there at once, and is through with them when `step` returns."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.rows: list[Row] = []

    def step(self, joining: list[Row]) -> None:
        """Answer for `joining`, but for those that are halted before their turn comes."""
        with torch.inference_mode():
            for rows in batches(joining, lambda row: len(row.sheet.ids)):
                self._read([row for row in rows if not row.over])

    def clear(self) -> None:
        """Nothing is kept between steps."""

    def _read(self, rows: list[Row]) -> None:
        if not rows:
            return
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row.sheet.ids) for row in rows], batch_first=True)
        lengths = torch.tensor([len(row.sheet.ids) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        states = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        means = (states * mask[:, :, None]).sum(1) / lengths[:, None]
        for row, vector in zip(rows, torch.nn.functional.normalize(means).tolist(), strict=True):
            row.read = len(row.sheet.ids)
            row.pieces = ((tuple(round(each, DIGITS) for each in vector),),)
            row.finish = "stop"
