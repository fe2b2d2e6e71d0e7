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

from tts.backends import weights
from tts.backends.base import Request
from tts.backends.decode import Batch, Row, completion_of
from tts.backends.prompt import Prompter
from tts.errors import BackendError
from tts.types import Completion, ModelInfo, Path

MAX_ROWS = 32
"""Continuations decoded at once; more wait for a place."""


class LocalBackend:
    """Loads Llama, Qwen2 and Qwen3 models from safetensors or GGUF; the embedded SmolLM2 when none is named.

    Every continuation ends at its grant, to the token. With the same seed and no request that had to wait for
    a place, the same requests give the same completions.
    """

    def __init__(
        self,
        source: File | None = None,
        *,
        max_rows: int = MAX_ROWS,
        notice: Callable[[str], None] = lambda message: None,
    ) -> None:
        file = source or weights.embedded()
        folder = weights.folder_of(file, notice)
        config = weights.read_config(folder)
        self._prompter = Prompter(folder)
        self._model = weights.load_model(folder, config, _device())
        self.info = _info(self._model, weights.EMBEDDED_NAME if source is None else file.stem, folder)
        self._batch = Batch(self._model, _stop_ids(self._model, self._prompter), self._text)
        self._waiting: deque[tuple[Row, asyncio.Future[Row]]] = deque()
        self._running: dict[Row, asyncio.Future[Row]] = {}
        self._driver: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._max_rows = max_rows
        self.generated = 0

    def prompt_tokens(self, path: Path) -> int:
        return len(self._prompter.path_ids(path))

    async def generate(self, request: Request) -> Completion:
        prompt = tuple(self._prompter.path_ids(request.path))
        future: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        asking = Row(request, prompt, time.perf_counter())
        self._waiting.append((asking, future))
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        try:
            row = await future
        except asyncio.CancelledError:
            asking.abandoned = True
            raise
        assert row.finish is not None
        return completion_of(row, self._text(row), row.finish, time.perf_counter() - row.began)

    async def _drive(self) -> None:
        """Step the batch, in its own thread, until nobody waits for anything."""
        loop = asyncio.get_running_loop()
        while self._waiting or self._running:
            await asyncio.sleep(0)  # requests made at the same moment join at the same step
            joining = self._places()
            try:
                ended = await loop.run_in_executor(self._thread, self._batch.step, joining)
            except RuntimeError as error:  # torch: out of memory, a broken shape
                self._fail(BackendError(f"{self.info.name}: {error}"))
                continue
            for row in ended:
                self.generated += row.made
                future = self._running.pop(row)
                if not future.done():
                    future.set_result(row)

    def _places(self) -> list[Row]:
        joining = []
        while self._waiting and len(self._running) < self._max_rows:
            row, future = self._waiting.popleft()
            self._running[row] = future
            joining.append(row)
        return joining

    def _fail(self, error: BackendError) -> None:
        """A step that broke takes the whole batch with it; nobody knows what its rows had cost."""
        self._batch.clear()
        for row, future in self._running.items():
            self.generated += row.made
            if not future.done():
                future.set_exception(error)
        self._running.clear()

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
