"""Qwen2.5-Math-PRM (Zhang et al. 2025, "The lessons of developing process reward models in mathematical reasoning").

    SGLANG_EXTERNAL_MODEL_PACKAGE=sglang_models PYTHONPATH=service/deploy \\
      python -m sglang.launch_server --model-path Qwen/Qwen2.5-Math-PRM-7B --is-embedding

Written for SGLang 0.5.23. `/classify` then says of a text what the head says at its last token: two logits, of a wrong
and of a right step. A text that ends in `<extra_0>` is read from the cache up to the step before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sglang.srt.layers.pooler import EmbeddingPoolerOutput, Pooler, PoolingType, score_and_pool
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.models.qwen2 import Qwen2ForCausalLM, Qwen2Model
from sglang.srt.utils import add_prefix
from torch import nn

Named = tuple[str, torch.Tensor]


class Qwen2ForProcessRewardModel(nn.Module):
    """Qwen2 under a head of two layers. Its name and those of its parts are the checkpoint's."""

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        super().__init__()
        self.config, self.quant_config = config, quant_config
        self.model = Qwen2Model(config, quant_config=quant_config, prefix=add_prefix("model", prefix))
        width = config.hidden_size
        self.score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.num_labels))
        self.pooler = Pooler(PoolingType.LAST, normalize=False)
        self.eos_token_id = config.eos_token_id

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
        get_embedding: bool = True,
    ) -> EmbeddingPoolerOutput:
        """One row of logits for each text of the batch."""
        assert get_embedding, "this model writes nothing; serve it with --is-embedding"
        states = self.model(input_ids, positions, forward_batch, input_embeds)
        return score_and_pool(self.score, self.pooler, states, forward_batch, input_ids)

    def load_weights(self, weights: Iterable[Named]) -> None:
        """Those of Qwen2 and of the head. Raises `ValueError` where the head's are missing."""
        found = dict.fromkeys((f"score.{name}" for name, _ in self.score.named_parameters()), False)
        Qwen2ForCausalLM._legacy_load_weights(self, self._without_the_other_head(weights, found))
        missing = sorted(name for name, there in found.items() if not there)
        if missing:
            raise ValueError(f"this checkpoint has no {', '.join(missing)}: it is no process reward model of Qwen2.5")

    def _without_the_other_head(self, weights: Iterable[Named], found: dict[str, bool]) -> Iterable[Named]:
        """A checkpoint may still carry the head that wrote text."""
        for name, weight in weights:
            if name in found:
                found[name] = True
            if not name.startswith("lm_head."):
                yield name, weight


EntryClass = [Qwen2ForProcessRewardModel]
