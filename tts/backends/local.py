"""A model in this process: plain, correct, batched across concurrent requests and jobs."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as File
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may ask a hub for anything
# OpenMP's threads would spin while they wait for each other: beside one busy process that costs a factor of ten.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tts.backends import weights
from tts.backends.base import Request
from tts.backends.decode import Batch, Row, completion_of, halted
from tts.backends.prompt import Prompter
from tts.errors import BackendError, UsageError
from tts.types import Completion, ModelInfo, Path

MAX_ROWS, MAX_ROWS_OF_SMALL = 32, 256
"""Continuations decoded at once; more wait for a place. Of a small model more fit into the memory, and are needed to
outweigh what a step costs whatever it computes."""
SMALL = 20_000_000
"""Parameters."""


class LocalBackend:
    """Loads Llama, Qwen2 and Qwen3 models from safetensors or GGUF; the embedded SmolLM2 when none is named.

    Every continuation ends at its grant, to the token. With the same seed and no request that had to wait for
    a place, the same requests give the same completions.
    """

    def __init__(
        self,
        source: File | None = None,
        *,
        max_rows: int | None = None,
        notice: Callable[[str], None] = lambda message: None,
    ) -> None:
        file = source or weights.embedded()
        folder = weights.folder_of(file, notice)
        config = weights.read_config(folder)
        self._prompter = Prompter(folder)
        self._model = weights.load_model(folder, config, _device())
        self.info = _info(self._model, weights.EMBEDDED_NAME if source is None else file.stem, folder)
        self._batch = Batch(self._model, _stop_ids(self._model, self._prompter), self._text)
        self._vocabulary: int = self._model.get_input_embeddings().num_embeddings
        self._waiting: deque[tuple[Row, asyncio.Future[None]]] = deque()
        self._running: dict[Row, asyncio.Future[None]] = {}
        self._driver: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._max_rows = max_rows or (MAX_ROWS_OF_SMALL if self.info.parameters < SMALL else MAX_ROWS)
        self.generated = 0

    def prompt_tokens(self, path: Path) -> int:
        return len(self._prompter.path_ids(path))

    async def generate(self, request: Request) -> Completion:
        row = Row(request, self._prompt(request), time.perf_counter())
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, future))
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        try:
            await future
        except asyncio.CancelledError:
            row.abandoned = True
            raise
        assert row.finish is not None
        return completion_of(row, self._text(row), row.finish, time.perf_counter() - row.began)

    async def _drive(self) -> None:
        """Step the batch, in its own thread, until nobody waits for anything."""
        while self._waiting or self._running:
            await asyncio.sleep(0)  # requests made at the same moment join at the same step
            try:
                await self._step(self._places())
            except BackendError as error:
                self._fail(error)
            self._settle()

    async def _step(self, joining: list[Row]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._batch.step, joining)
        except Exception as error:  # out of memory, a broken shape, somebody's `watch`: nobody may wait for ever
            raise BackendError(f"{self.info.name}: {error}") from error

    def _places(self) -> list[Row]:
        """Who joins now: as many as there is room for, and all whom the step will only tell to go."""
        waiting, self._waiting = self._waiting, deque()
        joining = []
        for row, future in waiting:
            if len(self._running) < self._max_rows or halted(row):
                self._running[row] = future
                joining.append(row)
            else:
                self._waiting.append((row, future))
        return joining

    def _fail(self, error: BackendError) -> None:
        """A step that broke takes the whole batch with it; nobody knows what its rows had cost."""
        self._batch.clear()
        for future in self._running.values():
            if not future.done():
                future.set_exception(error)

    def _settle(self) -> None:
        """Answer for every row that is no longer in the batch, also where it left in a step that nobody awaited:
        the one that runs on when its event loop is closed."""
        for row in [row for row in self._running if row not in self._batch.rows]:
            self.generated += row.made
            future = self._running.pop(row)
            if not future.done():
                future.set_result(None)

    def _prompt(self, request: Request) -> tuple[int, ...]:
        """The ids of the prompt. Refuses what would break the step, and with it the batch that others are in."""
        ids = tuple(self._prompter.path_ids(request.path))
        unknown = [i for i in (*ids, *request.sampling.banned_ids) if not 0 <= i < self._vocabulary]
        if unknown:
            raise UsageError(f"{self.info.name} has no token {unknown[0]}; its last one is {self._vocabulary - 1}")
        if not ids:
            raise UsageError(f"{self.info.name} cannot continue an empty prompt; give it a message or a token")
        return ids

    def _text(self, row: Row) -> str:
        return self._prompter.decode(row.ids, row.prompt)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _info(model: Any, name: str, folder: File) -> ModelInfo:
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelInfo(
        name=name,
        fingerprint=weights.fingerprint(folder),
        context=config.max_position_embeddings,
        parameters=sum(each.numel() for each in model.parameters()),
        layers=config.num_hidden_layers,
        attention_width=config.num_attention_heads * head,
        capabilities=frozenset({"logprobs", "self_certainty", "continue", "abort"}),
        # A halt is noticed between two tokens, or after a prompt.
        grace=5.0,
    )


def _stop_ids(model: Any, prompter: Prompter) -> frozenset[int]:
    """The end-of-text tokens: the configuration's, the generation settings' and the usual end of a turn."""
    named = [model.config.eos_token_id, model.generation_config.eos_token_id]
    ids = [i for value in named for i in (value if isinstance(value, list) else [value])]
    turns = [prompter.token_id(token) for token in ("<|im_end|>", "<|eot_id|>", "<|endoftext|>")]
    return frozenset(i for i in (*ids, *turns) if i is not None)
