"""Train, dev and test, disjoint by problem: which split a problem is in follows from the problem itself."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

Split = Literal["train", "dev", "test"]
_SHARES: tuple[tuple[Split, int], ...] = (("dev", 10), ("test", 20), ("train", 100))


class Keyed(Protocol):
    """Anything whose `key` says which problem it is, however it is written."""

    @property
    def key(self) -> str: ...


P = TypeVar("P", bound=Keyed)


def split_of(key: str) -> Split:
    """80 % of all problems are for training, 10 % each for dev and test."""
    percent = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest()) % 100
    return next(split for split, below in _SHARES if percent < below)


def drawn(split: Split, rng: random.Random, generate: Callable[[random.Random], P]) -> P:
    """The next problem of that split out of a generator's stream."""
    while True:
        problem = generate(rng)
        if split_of(problem.key) == split:
            return problem
