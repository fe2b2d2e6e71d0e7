"""What decides how a lab model is trained: `training.toml`, beside the weights."""

from __future__ import annotations

import tomllib
from pathlib import Path as File
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tts.cost import one_line
from tts.errors import UsageError

MODELS = File(__file__).parent / "models"
"""One folder per model: settings, weights, configuration, tokenizer."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(BaseModel):
    """Common to all trainings. `tokens` in all and per batch, padding not counted; `warmup` and `decay` are the shares
    of the training in which the learning rate rises from and falls to zero."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    tokens: int
    batch_tokens: int = 4096
    learning_rate: float = 3e-3
    warmup: Annotated[Share, Field(gt=0.0)] = 0.01
    decay: Annotated[Share, Field(gt=0.0)] = 0.5
    threads: int = 1


class PolicySettings(Settings):
    """A Llama from random weights, taught by a task's own solutions, the hardest of them only after `curriculum`."""

    kind: Literal["policy"]
    task: Literal["chain", "countdown"]
    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    context: int = 1024
    curriculum: Share = 0.3


class CorrectorSettings(Settings):
    """A policy's weights, taught to find errors in a task's solutions and to say what should stand there. The errors
    are made at random: a share `replaced` of the names and numbers is misread, a share `strayed` of the lists of
    needed quantities goes wrong at some place, and from there on."""

    kind: Literal["corrector"]
    task: Literal["chain"]
    policy: str
    replaced: Share = 0.04
    strayed: Share = 0.3
    curriculum: Share = 0.3


class RewardSettings(Settings):
    """A corrector's weights, taught how good the lines of the solutions of the policy `rollouts` are. A share `flipped`
    of the labels is turned round at random; `shuffled` ones belong to other steps and teach nothing but the form."""

    kind: Literal["reward"]
    task: Literal["chain"]
    corrector: str
    rollouts: str
    flipped: Share = 0.0
    shuffled: bool = False


AnySettings = PolicySettings | CorrectorSettings | RewardSettings
_ANY: TypeAdapter[AnySettings] = TypeAdapter(Annotated[AnySettings, Field(discriminator="kind")])


def read_settings(folder: File) -> AnySettings:
    """The settings of the model in a folder."""
    file = folder / "training.toml"
    try:
        return _ANY.validate_python(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(f"cannot read the training settings in {file}: {one_line(error)}") from error
