"""A lab reward model at work: how likely each line is right, for all solutions to a problem at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path as File

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from transformers import DynamicCache

from evals.lab.examples import TAG, log_good, tagged
from evals.lab.settings import MODELS
from evals.lab.tokens import PAD_ID
from tts.backends import weights
from tts.backends.local import info_of
from tts.errors import UsageError
from tts.types import ModelInfo


class RewardModel:
    """A causal language model whose next symbol is `+` where what it has read is right. A line's score is the product
    of the chances of `+` after each of its symbols."""

    def __init__(self, folder: File) -> None:
        self._model = weights.load_model(folder, weights.read_config(folder), "cpu")
        self.info = info_of(self._model, folder.name, folder)

    @classmethod
    def of(cls, policy: ModelInfo, name: str) -> RewardModel:
        """A policy's reward model, by the end of its folder's name."""
        folder = MODELS / f"{policy.name}-{name}"
        if not (folder / "model.safetensors").is_file():
            raise UsageError(f"{policy.name} has no reward model {name!r}: there are no weights in {folder}")
        return cls(folder)

    def score(self, prompt: str, solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each solution's steps, how likely each is right, between 0 and 1 and not calibrated: verdicts were
        weighed in training. The prompt is read once, and so is a solution that comes more than once."""
        different = list(dict.fromkeys(tuple(steps) for steps in solutions))
        found = dict(zip(different, self._read(prompt, different), strict=True))
        return [found[tuple(steps)] for steps in solutions]

    def _read(self, prompt: str, solutions: Sequence[Sequence[str]]) -> Iterator[list[float]]:
        before = tagged(prompt, [])
        ids = [tagged(prompt, steps)[len(before) :] for steps in solutions]
        width = max(map(len, ids))
        inputs = torch.tensor([each + [PAD_ID] * (width - len(each)) for each in ids])
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            cache = DynamicCache(config=self._model.config)
            self._model(input_ids=torch.tensor([before]), past_key_values=cache)
            cache.batch_repeat_interleave(len(ids))
            logits = self._model(input_ids=inputs, past_key_values=cache).logits.float()
            ends = inputs == TAG
            good = log_good(logits, inputs != PAD_ID, ends).exp()
        yield from (each.tolist() for each in torch.split(good, ends.sum(-1).tolist()))
