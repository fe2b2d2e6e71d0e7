"""What a call costs in dollars and FLOPs, before it is made (an upper bound) and after (exactly)."""

from __future__ import annotations

import math
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Self

from pydantic import NonNegativeFloat, ValidationError, model_validator

from tts.errors import UsageError
from tts.types import ModelInfo, Noun, Spend, Usage


class Price(Noun):
    """US dollars per million tokens. Cached prompt tokens cost as much as others unless said otherwise."""

    prompt: NonNegativeFloat
    completion: NonNegativeFloat
    cached: NonNegativeFloat | None = None

    @model_validator(mode="after")
    def _caching_is_no_surcharge(self) -> Self:
        if self.cached is not None and self.cached > self.prompt:
            raise ValueError("a cached token must not cost more than an uncached one")
        return self

    def usd(self, prompt: int, cached: int, completion: int) -> float:
        cheap = self.prompt if self.cached is None else self.cached
        return ((prompt - cached) * self.prompt + cached * cheap + completion * self.completion) / 1e6


Prices = Mapping[str, Price]
"""Price per model name."""


def read_prices(file: File) -> dict[str, Price]:
    """A price table from TOML: `["model name"]` with `prompt`, `completion` and perhaps `cached`."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        return {name: Price.model_validate(table) for name, table in tables.items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(f"cannot read the price table {file}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """What was wrong, without the traceback's prose."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@dataclass(frozen=True)
class Tariff:
    """The cost of one model's calls. Without a price its dollars count as zero, and the bill says None."""

    model: ModelInfo
    price: Price | None = None

    def spend(self, usage: Usage) -> Spend:
        """What a settled call cost."""
        return self._of(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)

    def ceiling(self, prompt: int, tokens: int) -> Spend:
        """The most that `tokens` after a prompt of `prompt` tokens can cost: nothing cached."""
        return self._of(prompt, 0, tokens)

    def affordable(self, prompt: int, ceiling: int, free: Spend) -> int:
        """The largest number of tokens up to `ceiling` that `free` pays for, prefill included; 0 if none."""
        most = int(min(ceiling, free.tokens))
        if most <= 0 or free.usd == free.flops == math.inf or self.ceiling(prompt, most).within(free):
            return max(0, most)
        return bisect_right(range(1, most), False, key=lambda n: not self.ceiling(prompt, n).within(free))

    def _of(self, prompt: int, cached: int, completion: int) -> Spend:
        usd = self.price.usd(prompt, cached, completion) if self.price else 0.0
        return Spend(completion, usd, flops(self.model, prompt, cached, completion))


def flops(model: ModelInfo, prompt: int, cached: int, completion: int) -> float:
    """2 × parameters per processed token, plus 4 × layers × attention width per (query, key) pair.

    The processed tokens are the uncached prompt and every generated one; each attends to all before it.
    """
    end = prompt + completion
    pairs = (end * (end + 1) - cached * (cached + 1)) // 2
    return 2.0 * model.parameters * (end - cached) + 4.0 * model.layers * model.attention_width * pairs
