"""A head that transformers does not have."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import Qwen2Config, Qwen2Model, Qwen2PreTrainedModel


class Qwen2ForProcessReward(Qwen2PreTrainedModel):  # type: ignore[misc]
    """Two classes, wrong and right, by a small network over the last state, as the checkpoints of Qwen2.5-Math-PRM name
    their weights (Zhang et al. 2025, "The lessons of developing process reward models in mathematical reasoning")."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        width = config.hidden_size
        self.score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.num_labels))
        self.post_init()

    def get_input_embeddings(self) -> Any:
        return self.model.embed_tokens
