"""A lab reward model at work: the chance of `+` at each step tag, for many solutions at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path as File

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from evals.lab.examples import BAD, GOOD, TAG, tagged
from evals.lab.tokens import PAD_ID
from tts.backends import weights

BATCH_TOKENS = 16_384


class RewardModel:
    """A causal language model that answers `+` or `-` at a step tag, read as Math-Shepherd reads its own: a softmax
    over the two, of which `+` counts (Wang et al. 2024)."""

    def __init__(self, folder: File) -> None:
        self._model = weights.load_model(folder, weights.read_config(folder), "cpu")
        self.parameters = sum(each.numel() for each in self._model.parameters())

    def score(self, solutions: Sequence[tuple[str, list[str]]]) -> list[list[float]]:
        """For each prompt and its steps, the chance of `+` after each step."""
        ids = [tagged(prompt, steps) for prompt, steps in solutions]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        scores: list[list[float]] = [[] for _ in ids]
        for batch in _batches(order, ids):
            for i, found in zip(batch, self._read([ids[i] for i in batch]), strict=True):
                scores[i] = found
        assert all(len(s) == len(steps) for s, (_, steps) in zip(scores, solutions, strict=True))
        return scores

    def _read(self, batch: list[list[int]]) -> Iterator[list[float]]:
        width = max(map(len, batch))
        inputs = torch.tensor([ids + [PAD_ID] * (width - len(ids)) for ids in batch])
        with torch.inference_mode():
            logits = self._model(input_ids=inputs, use_cache=False).logits[..., [GOOD, BAD]].float()
            good = torch.softmax(logits, dim=-1)[..., 0]
        for row, ids in zip(good, batch, strict=True):
            yield row[: len(ids)][torch.tensor(ids) == TAG].tolist()


def _batches(order: list[int], ids: list[list[int]]) -> Iterator[list[int]]:
    batch: list[int] = []
    for i in order:
        if batch and len(ids[i]) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
