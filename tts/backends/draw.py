"""Drawing the next token of every row at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tts.types import Sampling

GREEDY = 1e-6
"""Below this temperature the likeliest token is taken."""


def draw(logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """[rows] ids from [rows, vocabulary] logits, by inverse-transform sampling: one uniform number a row, so what a row
    draws does not depend on who else is in the batch."""
    if any(sampling.banned_ids for sampling in samplings):
        logits = logits.clone()
        for row, sampling in zip(logits, samplings, strict=True):
            row[list(sampling.banned_ids)] = -torch.inf
    temperatures = logits.new_tensor([max(s.temperature, GREEDY) for s in samplings], dtype=torch.double)
    probabilities = torch.softmax(logits.double() / temperatures[:, None], dim=-1)
    for row, sampling in zip(probabilities, samplings, strict=True):
        if sampling.top_p < 1.0:
            keep_nucleus(row, sampling.top_p)
    cumulative = probabilities.cumsum(dim=-1)
    aim = cumulative[:, -1] * cumulative.new_tensor(uniforms)
    drawn = torch.searchsorted(cumulative, aim[:, None], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    greedy = temperatures <= GREEDY
    return torch.where(greedy, logits.argmax(dim=-1), drawn) if bool(greedy.any()) else drawn


def keep_nucleus(probabilities: Tensor, top_p: float) -> None:
    """Zero everything outside the smallest set that holds `top_p` (Holtzman et al. 2020, section 3.1)."""
    ordered, indices = probabilities.sort(descending=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    probabilities[indices[outside]] = 0.0
