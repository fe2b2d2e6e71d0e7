"""A model in this process: plain, correct, batched across concurrent requests and jobs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path as File
from typing import Any, TypeVar

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may ask a hub for anything
# OpenMP's threads would spin while they wait for each other: beside one busy process that costs a factor of ten.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from pydantic import ValidationError

from tts.backends import judging, weights
from tts.backends.base import Health, Reading, Request
from tts.backends.decode import Batch, Row, completion_of
from tts.backends.lane import Lane, Place
from tts.backends.prompt import Prompter
from tts.backends.spelling import Speller
from tts.errors import BackendError
from tts.types import Capability, Completion, ModelInfo, Path, Sheet, Verdicts, digest, number

MAX_ROWS, MAX_ROWS_OF_SMALL = 32, 2048
"""Continuations decoded at once; more wait for a place. Of a small model more fit into the memory, and are needed to
outweigh what a step costs whatever it computes; many of them are twins, too."""
MAX_SHEETS = 256
"""Sheets read in one step; more wait for the next one."""
SMALL, LANES = 20_000_000, 4
"""Parameters. The matrices of a smaller model are not worth dividing between cores: up to so many cores have a batch of
their own."""
READS: frozenset[Capability] = frozenset({"prefill_score", "abort"})
WRITES: frozenset[Capability] = frozenset({"logprobs", "self_certainty", "continue"})

T = TypeVar("T", bound=Place)


class LocalBackend:
    """Loads Llama, Qwen2 and Qwen3 models from safetensors or GGUF; the embedded SmolLM2 when none is named.

    Every continuation ends at its grant, to the token. With the same seed and no request that had to wait for
    a place, the same requests give the same completions.
    """

    in_process = True

    def __init__(
        self,
        source: File | None = None,
        *,
        max_rows: int | None = None,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        notice: Callable[[str], None] = lambda message: None,
    ) -> None:
        file = source or weights.embedded()
        folder = weights.folder_of(file, notice)
        self.tokenizer = folder / "tokenizer.json"
        """What spells the tokens."""
        config = weights.read_config(folder)
        self._prompter = Prompter(folder, template, variables)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = weights.load_model(folder, config, device)
        info = info_of(self._model, weights.EMBEDDED_NAME if source is None else file.stem, folder)
        manner = self._prompter.manner
        self.info = info.model_copy(update={"fingerprint": digest(info.fingerprint + manner)}) if manner else info
        small = self.info.parameters < SMALL
        cores = torch.get_num_threads()
        rows = max_rows or (MAX_ROWS_OF_SMALL if small else MAX_ROWS)
        lanes = min(cores, LANES, rows) if small and device == "cpu" else 1
        name, threads = self.info.name, cores // lanes
        writes = self._model.get_output_embeddings() is not None
        stop_ids = _stop_ids(self._model, self._prompter) if writes else frozenset()
        self._batches = [Batch(self._model, stop_ids, self._text) for _ in range(lanes if writes else 0)]
        self._lanes = [Lane(name, batch, rows // lanes, threads) for batch in self._batches]
        self._reading = [Lane(name, judging.Judging(self._model), MAX_SHEETS, threads) for _ in range(lanes)]
        vocabulary: int = self._model.get_input_embeddings().num_embeddings
        self._speller = Speller(self._prompter, name, vocabulary, classes=not writes)

    @property
    def generated(self) -> int:
        """Tokens made since the start."""
        return sum(lane.generated for lane in self._lanes)

    async def health(self) -> dict[str, Health]:
        """It is well as long as this process is."""
        return {"in-process": Health(up=True, resident=sum(batch.resident for batch in self._batches))}

    def prompt_tokens(self, path: Path) -> int:
        return self._speller.prompt_tokens(path)

    def sheet_tokens(self, sheet: Sheet) -> int:
        return self._speller.sheet_tokens(sheet)

    async def read(self, reading: Reading) -> Verdicts:
        sheet = reading.sheet
        row = judging.Row(reading, self._speller.sheet(sheet), self._speller.asked(sheet), time.perf_counter())
        await _of_job(self._reading, reading.job).finish(row)
        try:
            return row.verdicts(time.perf_counter() - row.began)
        except ValidationError as error:
            raise BackendError(f"{self.info.name} said of a step what is no number") from error

    async def generate(self, request: Request) -> Completion:
        row = Row(request, self._speller.prompt(request), time.perf_counter())
        await self._lane(request.job).finish(row)
        assert row.finish is not None
        return completion_of(row, self._text(row), row.finish, time.perf_counter() - row.began)

    def _lane(self, job: str) -> Lane[Row]:
        return _of_job(self._lanes, job)

    def _text(self, row: Row) -> str:
        return self._prompter.decode(row.ids, row.prompt)


def _of_job(lanes: list[Lane[T]], job: str) -> Lane[T]:
    """A job keeps to one lane, which remembers its texts: what it costs must not depend on who else is there."""
    return lanes[number(job) % len(lanes)]


def info_of(model: Any, name: str, folder: File) -> ModelInfo:
    """What there is to say of a model that was loaded from a folder."""
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelInfo(
        name=name,
        fingerprint=weights.fingerprint(folder),
        context=config.max_position_embeddings,
        parameters=sum(each.numel() for each in model.parameters()),
        layers=config.num_hidden_layers,
        attention_width=config.num_attention_heads * head,
        capabilities=READS | WRITES if model.get_output_embeddings() is not None else READS,
        # A halt is noticed between two tokens, or after a prompt.
        grace=5.0,
    )


def _stop_ids(model: Any, prompter: Prompter) -> frozenset[int]:
    """The end-of-text tokens: the configuration's, the generation settings' and the usual end of a turn."""
    named = [model.config.eos_token_id, model.generation_config.eos_token_id]
    ids = [i for value in named for i in (value if isinstance(value, list) else [value])]
    return frozenset((*(i for i in ids if i is not None), *prompter.turn_ends))
