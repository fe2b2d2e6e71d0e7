"""Train a lab model: deterministic by its seed, resumable, its settings read from beside the weights it writes.

    python -m evals.lab.train evals/lab/models/chain-2m --again

reads `training.toml` in that folder and fills it with the model: a policy that learns a task's solutions; a corrector
that starts from a policy and learns to mend solutions; or a reward model that starts from a corrector and learns what
`evals.lab.rollouts` found out about a policy's solutions. What has to survive an interruption lies in `DIR/.training`;
the same command goes on from there. Weights that are there already are written over only with --again.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two trainings side by side must not spin for each other

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from evals.lab.examples import IGNORED, Corrections, Example, Policies, Rewards, rollouts_of
from evals.lab.settings import MODELS, AnySettings, CorrectorSettings, PolicySettings, RewardSettings, read_settings
from evals.lab.tokens import ALPHABETS, BOS_ID, EOS_ID, PAD_ID
from evals.script import Script
from tts.backends.weights import quiet
from tts.errors import UsageError

POOL = 512
"""Examples drawn together and sorted by length, so that a batch holds little padding."""
SAVE_SECONDS, SAY_SECONDS = 120.0, 10.0
SNAPSHOTS = (0.25, 0.5)
WEIGHTS = "model.safetensors"
ATTENTION = "eager"
"""Sequences are short: plain attention trains twice as fast on a CPU as the fused kernel."""


class Training:
    """One training from its first token, or from where it was interrupted, to its last."""

    def __init__(self, folder: File, again: bool = False) -> None:
        self.folder, self.work = folder, folder / ".training"
        self.settings = read_settings(folder)
        torch.set_num_threads(self.settings.threads)
        torch.manual_seed(self.settings.seed)
        torch.use_deterministic_algorithms(True)
        settings = self.settings
        self.source = _source(settings)
        self.model = build(settings)
        self.forward = torch.compile(self.model, dynamic=True)
        self.optimizers = _optimizers(self.model, self.settings.learning_rate)
        self.done = self.pool = self.batch = self.start = 0
        """Tokens seen; the pool and the batch in it that come next; the tokens seen before that pool."""
        self.seconds = 0.0
        if (self.work / "state.pt").is_file():
            self._resume()
        elif (folder / WEIGHTS).is_file() and not again:
            raise UsageError(f"{folder} holds weights and no training to go on with; --again trains new ones over them")
        self.work.mkdir(exist_ok=True)

    def run(self) -> None:
        """Train to the end, saying how far it is, and write the finished model."""
        began, since, said, saved = time.monotonic(), self.seconds, 0.0, time.monotonic()
        losses: list[float] = []
        for examples in self._batches():
            losses.append(self._step(examples))
            now = time.monotonic()
            self.seconds = since + now - began
            if now - said > SAY_SECONDS or self.done >= self.settings.tokens:
                self._say(sum(losses) / len(losses))
                said, losses = now, []
            if now - saved > SAVE_SECONDS:
                self._checkpoint()
                saved = now
        save(self.model, self.settings.task, self.folder)
        self._checkpoint()

    def _batches(self) -> Iterator[list[Example]]:
        total = self.settings.tokens
        while self.done < total:
            batches = self._pool()
            while self.batch < len(batches) and self.done < total:
                before = self.done
                self.batch += 1
                yield batches[self.batch - 1]
                for share in SNAPSHOTS:
                    if before < share * total <= self.done:
                        save(self.model, self.settings.task, self.work / f"{share:.0%}")
            if self.batch == len(batches):
                self.pool, self.batch, self.start = self.pool + 1, 0, self.done

    def _pool(self) -> list[list[Example]]:
        """The batches of the next pool, which depend on nothing but its number and the tokens seen before it."""
        rng = random.Random(f"{self.settings.seed}/{self.pool}")
        examples = list(self.source.draw(rng, POOL, self.start / self.settings.tokens))
        return packed(examples, self.settings.batch_tokens, rng)

    def _step(self, examples: list[Example]) -> float:
        """Learn from one batch; its loss in nats per target."""
        inputs, targets = tensors(examples)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * self._pace()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.forward(input_ids=inputs, use_cache=False).logits  # type: ignore[no-untyped-call]
        loss = self.source.loss(logits.float(), inputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.done += sum(len(example.ids) for example in examples)
        return float(loss.detach())

    def _pace(self) -> float:
        """The share of the learning rate: up, level, and down to zero."""
        share = self.done / self.settings.tokens
        return min(1.0, (share + 1e-4) / self.settings.warmup, (1.0 - share) / self.settings.decay)

    def _say(self, loss: float) -> None:
        share = min(1.0, self.done / self.settings.tokens)
        left = self.seconds / share * (1 - share)
        line = {"tokens": self.done, "loss": round(loss, 4), "seconds": round(self.seconds)}
        with (self.work / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(
            f"{self.folder.name}: {share:.1%}, {self.done / 1e6:.2f} M tokens, {self.done / self.seconds:,.0f}/s, "
            f"loss {loss:.4f}, {left / 60:.0f} min left",
            flush=True,
        )

    def _checkpoint(self) -> None:
        state = {
            "settings": self.settings.model_dump(),
            "origins": origins(self.settings),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "place": (self.done, self.pool, self.batch, self.start, self.seconds),
        }
        torch.save(state, self.work / "new.pt")
        (self.work / "new.pt").replace(self.work / "state.pt")

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self.work / "state.pt", weights_only=True)
        changed = ["training.toml"] if state["settings"] != self.settings.model_dump() else []
        changed += [name for name, digest in origins(self.settings).items() if state["origins"].get(name) != digest]
        if changed:
            raise UsageError(
                f"{self.folder}: {' and '.join(changed)} changed since this training began; remove "
                f"{self.work / 'state.pt'} to start anew"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.done, self.pool, self.batch, self.start, self.seconds = state["place"]


def _source(settings: AnySettings) -> Policies | Corrections | Rewards:
    if isinstance(settings, PolicySettings):
        return Policies(settings)
    return Corrections(settings) if isinstance(settings, CorrectorSettings) else Rewards(settings)


def build(settings: AnySettings) -> LlamaForCausalLM:
    """Random weights for a policy, for the others those of the model that they start from."""
    if isinstance(settings, PolicySettings):
        return _random(settings)
    return _load(start_of(settings))


def origins(settings: AnySettings) -> dict[str, str]:
    """What a training starts from besides its settings: files, and digests of their contents."""
    if isinstance(settings, PolicySettings):
        return {}
    files = [MODELS / start_of(settings) / WEIGHTS]
    files += [rollouts_of(MODELS / settings.rollouts)] if isinstance(settings, RewardSettings) else []
    found = {}
    for file in files:
        with file.open("rb") as content:
            found[str(file.relative_to(MODELS))] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def start_of(settings: CorrectorSettings | RewardSettings) -> str:
    """The model whose weights a training starts from."""
    return settings.policy if isinstance(settings, CorrectorSettings) else settings.corrector


def _load(name: str) -> LlamaForCausalLM:
    folder = MODELS / name
    if not (folder / WEIGHTS).is_file():
        raise UsageError(f"{name} has no weights yet: python -m evals.lab.train {folder}")
    with quiet():
        return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=ATTENTION)


def _random(settings: PolicySettings) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(ALPHABETS[settings.task].tokens),
            hidden_size=settings.hidden,
            num_hidden_layers=settings.layers,
            intermediate_size=settings.intermediate,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.kv_heads,
            max_position_embeddings=settings.context,
            tie_word_embeddings=True,
            bos_token_id=BOS_ID,
            eos_token_id=EOS_ID,
            pad_token_id=PAD_ID,
            attn_implementation=ATTENTION,
        )
    )


def _optimizers(model: LlamaForCausalLM, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices, at Adam's learning rate (Liu et al. 2025), Adam for the rest. On
    these tasks it needs well under half of Adam's tokens for the same loss."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def packed(examples: list[Example], batch_tokens: int, rng: random.Random) -> list[list[Example]]:
    """Batches of examples of like length, none larger than `batch_tokens`, in random order."""
    batches: list[list[Example]] = [[]]
    for example in sorted(examples, key=lambda each: len(each.ids)):
        if batches[-1] and len(example.ids) * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(example)
    rng.shuffle(batches)
    return batches


def tensors(examples: list[Example]) -> tuple[Tensor, Tensor]:
    """[examples, longest] ids, padded at the right, and what should come next."""
    width = max(len(example.ids) for example in examples)
    inputs = torch.full((len(examples), width), PAD_ID)
    targets = torch.full((len(examples), width), IGNORED)
    for i, (ids, wanted) in enumerate(examples):
        inputs[i, : len(ids)] = torch.tensor(ids)
        targets[i, : len(ids)] = torch.tensor(wanted)
    return inputs, targets


def save(model: LlamaForCausalLM, task: str, folder: File) -> None:
    """Write weights in float16, configuration and tokenizer."""
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    with quiet():
        half.to(torch.float16).save_pretrained(folder)
        ALPHABETS[task].tokenizer().save_pretrained(folder)


if __name__ == "__main__":
    script = Script(__doc__)
    script.add_argument("folder", type=File, help="a folder with a training.toml")
    script.add_argument("--again", action="store_true", help="train new weights over those that are there")
    script.run(lambda folder, again: Training(folder, again).run())
