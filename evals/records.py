"""What a run of the harness leaves behind: its settings, one row per solved problem, and the samples it drew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as File
from typing import Any, Literal

from pydantic import ValidationError

from evals.lab.splits import Split
from tts.cost import one_line
from tts.errors import UsageError
from tts.types import FINISHER_TOKENS, Budget, Completion, ModelInfo, Noun, Sampling

ROWS, SAMPLES, SETTINGS = "rows.jsonl", "samples.jsonl", "run.json"
Unit = Literal["tokens", "seconds", "usd", "flops", "samples"]
"""What is held equal: something a budget limits, or plainly the number of samples."""


class Settings(Noun):
    """What all rows of a folder have in common: rows of other settings must not be mixed with them."""

    suite: str
    split: Split
    data: str | None
    model: ModelInfo
    sampling: Sampling
    code: str


class Cell(Noun):
    """A method at a budget: one point of a curve."""

    method: str
    unit: Unit
    amount: float

    def budget(self, sampling: Sampling) -> Budget:
        """The most that a problem may cost here. Samples are counted by the strategy: all of them can be paid."""
        if self.unit == "samples":
            return Budget(tokens=int(self.amount) * sampling.max_tokens + FINISHER_TOKENS)
        return Budget(**{self.unit: int(self.amount) if self.unit == "tokens" else self.amount})

    def __str__(self) -> str:
        return f"{self.method} at {self.amount:,g} {self.unit}"


class Row(Noun):
    """How one problem came out in one cell. `covered` says whether any counted answer was right, chosen or not.

    A problem with an `error` counts as wrong. `seconds` adds up the model calls' own durations: with problems
    side by side and samples shared, a clock on the wall would say nothing about a method. `latency` is the time from
    the question to the answer where that is known: on recorded samples.
    """

    cell: Cell
    seed: int
    problem: str
    group: str
    right: bool
    covered: bool
    answer: str | None
    error: str | None
    stop: str
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    verifier_tokens: int
    seconds: float
    usd: float | None
    flops: float
    kv_token_steps: int
    finished: int
    truncated: int
    failed: int
    latency: float | None = None
    selections: int = 0
    resident: int = 0
    """Tokens in the KV cache for the candidates of every selection, added up; `kept` for those that were chosen."""
    kept: int = 0
    idle: float = 0.0
    """The share of time that continuations waited for the slowest of those they were asked for with."""


class Sample(Noun):
    """One independent sample: the `number`-th of a problem and seed, its answer, and whether that is right."""

    problem: str
    seed: int
    number: int
    group: str
    answer: str | None
    right: bool
    completion: Completion


def read_settings(folder: File) -> Settings:
    """The settings of a finished or interrupted run."""
    try:
        return Settings.model_validate_json((folder / SETTINGS).read_bytes())
    except OSError as error:
        raise UsageError(f"{folder} holds no run: {SETTINGS} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise UsageError(f"{folder / SETTINGS} is no run of this version: {one_line(error)}") from error


def claim_folder(folder: File, settings: Settings) -> None:
    """Take a folder for a run, or go on in one whose rows were made under the same settings."""
    file = folder / SETTINGS
    if not file.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {file}: {error.strerror}; name another folder with --out") from error
        return
    known = read_settings(folder)
    differs = list(_differences(known, settings))
    if differs:
        raise UsageError(f"{folder} holds a run of {', '.join(differs)}; name another folder with --out")


def _differences(known: Noun, asked: Noun) -> Iterator[str]:
    """Each field in which two nouns of a kind differ, with both values."""
    for name in type(known).model_fields:
        one, other = getattr(known, name), getattr(asked, name)
        if one != other and isinstance(one, Noun):
            yield from _differences(one, other)
        elif one != other:
            yield f"{name} {one} instead of {other}"


def key_of(row: Row) -> tuple[Any, ...]:
    """What a row must not be there twice for."""
    return (row.cell, row.seed, row.problem)
