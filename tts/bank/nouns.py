"""What a bank is made of."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt

from tts.types import Completion, Message, ModelInfo, Noun, Path, Sampling, digest

MANIFEST, PROBLEMS, COMPLETE, FILLING = "bank.json", "problems.jsonl", "complete.jsonl", "filling.jsonl"
SAMPLES, SCORES, TOKENIZER, VERIFIER = "samples", "scores", "tokenizer.json", "verifier.json"


class Terms(Noun):
    """On what terms somebody's traffic may be kept: whose it is, who agreed, and until when (ISO 8601)."""

    tenant: str | None = None
    consent: str | None = None
    keep_until: str | None = None


class Source(Noun):
    """Where the problems come from, as `tts eval` names it."""

    suite: str
    split: str
    data: str | None = None


class Manifest(Noun):
    """What all samples of a bank have in common."""

    format: Literal[1] = 1
    model: ModelInfo
    sampling: Sampling
    source: Source
    terms: Terms = Terms()

    @property
    def fingerprint(self) -> str:
        """Samples of the same fingerprint are draws from the same distribution."""
        return digest(f"{self.model.fingerprint}\x00{self.sampling!r}")


class Asked(Noun):
    """One problem, as it was put to the model."""

    id: str
    start: tuple[Message, ...]
    prompt_tokens: NonNegativeInt

    @property
    def origin(self) -> str:
        return Path(start=self.start).origin


class Drawn(Noun):
    """One sample."""

    problem: str
    seed: NonNegativeInt
    number: NonNegativeInt
    completion: Completion

    @property
    def key(self) -> tuple[str, int, int]:
        return self.problem, self.seed, self.number


class Complete(Noun):
    """The first so many samples of a problem and seed are all there. Those of an interrupted filling are not: the quick
    ones have come, the slow ones are missing, and a bank of them would tell of a quicker model than there is."""

    problem: str
    seed: NonNegativeInt
    samples: NonNegativeInt
