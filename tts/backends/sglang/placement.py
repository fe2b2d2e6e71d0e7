"""Which replicas are to serve a conversation: together where its prefix is long, apart where much is to be decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

NEAR = 1.1
"""Replicas that cost less than this times the cheapest are equally good: the conversation's hash decides, so that other
processes and later turns decide alike."""


@dataclass(frozen=True)
class Speed:
    """Prompt tokens that a replica reads in a second; seconds of a decoding step, and more of them for each stream.

    The defaults are of an 8 B model on one large GPU; they hold until a server has `told` its own, or another one of
    the same model has.
    """

    prefill: float = 8_000.0
    step: float = 0.010
    stream: float = 0.000_05
    told: bool = False

    def reading(self, tokens: float) -> float:
        """Seconds to read so many tokens of a prompt."""
        return tokens / self.prefill

    def decoding(self, streams: float, tokens: float) -> float:
        """Seconds to decode so many tokens of each of so many streams."""
        return tokens * (self.step + self.stream * streams)


class Standing(NamedTuple):
    """How a replica stands: what it is called, the streams it runs, how many more it takes, and how many tokens of the
    prompt in question it would have to read."""

    name: str
    running: int
    room: int
    cold: float
    speed: Speed


def choose(key: str, standings: Sequence[Standing], streams: int, tokens: float) -> list[Standing]:
    """The replicas for `streams` continuations, of some `tokens` each, of one conversation.

    Of r replicas each reads the prompt and decodes streams / r beside what it runs already: taken are those r for which
    `reading · r + decoding(streams · tokens / r)` is least. The reading is counted r times, though the replicas read at
    the same time, because it is taken from the other conversations that they serve.
    """
    able = [each for each in standings if each.room > 0]
    sets = [_cheapest(key, able, count, streams, tokens) for count in range(1, min(len(able), streams) + 1)]
    return min(sets, key=lambda chosen: _cost(chosen, streams, tokens), default=[])


def _cheapest(key: str, able: Sequence[Standing], count: int, streams: int, tokens: float) -> list[Standing]:
    """The `count` replicas that serve their share at the least cost; of equally good ones, the hash's."""
    costs = {each.name: each.speed.reading(each.cold) + _decoding(each, streams / count, tokens) for each in able}
    near = NEAR * min(costs.values())
    ranked = sorted(able, key=lambda each: (max(near, costs[each.name]), -rank(key, each.name)))
    return ranked[:count]


def _cost(chosen: Sequence[Standing], streams: int, tokens: float) -> float:
    reading = sum(each.speed.reading(each.cold) for each in chosen)
    return reading + max(_decoding(each, streams / len(chosen), tokens) for each in chosen)


def _decoding(each: Standing, streams: float, tokens: float) -> float:
    """What does not fit at once is decoded in turns."""
    turns = max(1.0, streams / each.room)
    return turns * each.speed.decoding(each.running + min(streams, each.room), tokens)


def rank(key: str, name: str) -> int:
    """Highest random weight (Thaler and Ravishankar 1998): when replicas come or go, only what was theirs moves."""
    return int.from_bytes(hashlib.blake2b(f"{key}\x00{name}".encode(), digest_size=8).digest())
