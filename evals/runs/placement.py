"""How long conversations take on four simulated replicas, placed by us, each on one replica, and each on all four.

    python -m evals.runs.placement

A replica reads one prompt at a time and decodes nothing meanwhile; a decoding step gives every stream one token. Its
speeds are those of `Speed`: an 8 B model on one large GPU. Target: at most 1.1 times the better of the other two.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from evals.script import Script
from tts.backends.sglang.placement import Speed, Standing, choose, rank

REPLICAS, STREAMS, ROOM, TARGET = 4, 16, 64, 1.1
WORKLOADS = {"prompt 4k, decode 200": (4_000, 200), "prompt 200, decode 8k": (200, 8_000)}
CONVERSATIONS = (1, 4, 16)
SEEDS = range(20)
SPREAD = 0.3
"""Of the lengths of continuations, as a standard deviation of their logarithms."""


class Conversation(NamedTuple):
    """Continuations of one prompt, by their lengths in tokens."""

    name: str
    prompt: int
    lengths: list[int]


@dataclass
class Simulated:
    """A replica: the prompts that it has to read, each with the streams that wait for it."""

    name: str
    speed: Speed = field(default_factory=Speed)
    work: list[tuple[int, list[int]]] = field(default_factory=list)

    @property
    def running(self) -> int:
        return sum(len(lengths) for _, lengths in self.work)

    def makespan(self) -> float:
        """Seconds until all is done: prompts are read as soon as there is room for their streams."""
        clock, waiting, active = 0.0, [*self.work], list[float]()
        while waiting or active:
            while waiting and len(active) < ROOM:
                prompt, lengths = waiting.pop(0)
                now, later = lengths[: ROOM - len(active)], lengths[ROOM - len(active) :]
                clock += self.speed.reading(prompt)
                active += now
                waiting[:0] = [(0, later)] if later else []
            steps = min(active)
            clock += self.speed.decoding(len(active), steps)
            active = [left - steps for left in active if left > steps]
        return clock


Placement = Callable[[Sequence[Simulated], Conversation, float], list[Simulated]]


def ours(replicas: Sequence[Simulated], each: Conversation, expected: float) -> list[Simulated]:
    """What the backend does."""
    by_name = {replica.name: replica for replica in replicas}
    standings = [Standing(r.name, r.running, max(1, ROOM - r.running), each.prompt, r.speed) for r in replicas]
    return [by_name[chosen.name] for chosen in choose(each.name, standings, len(each.lengths), expected)]


def pinned(replicas: Sequence[Simulated], each: Conversation, expected: float) -> list[Simulated]:
    """Everything of a conversation on the replica that has least to do."""
    return [min(replicas, key=lambda replica: (replica.running, rank(each.name, replica.name)))]


def spread(replicas: Sequence[Simulated], each: Conversation, expected: float) -> list[Simulated]:
    """Its streams on all replicas alike."""
    return list(replicas)


def makespan(placement: Placement, conversations: Sequence[Conversation], expected: float) -> float:
    """Seconds until the last replica is through with conversations that come at once."""
    replicas = [Simulated(f"http://replica-{i}") for i in range(REPLICAS)]
    for each in conversations:
        chosen = placement(replicas, each, expected)
        for i, replica in enumerate(chosen):
            if lengths := each.lengths[i :: len(chosen)]:
                replica.work.append((each.prompt, lengths))
    return max(replica.makespan() for replica in replicas)


def drawn(count: int, prompt: int, tokens: int, rng: random.Random) -> list[Conversation]:
    """Conversations whose continuations are about so long."""
    return [
        Conversation(
            f"{rng.random()}", prompt, [max(1, int(tokens * math.exp(rng.gauss(0, SPREAD)))) for _ in range(STREAMS)]
        )
        for _ in range(count)
    ]


def main() -> None:
    """Print each ratio beside its target."""
    for workload, (prompt, tokens) in WORKLOADS.items():
        for count in CONVERSATIONS:
            totals = dict.fromkeys((ours, pinned, spread), 0.0)
            for seed in SEEDS:
                conversations = drawn(count, prompt, tokens, random.Random(seed))
                for placement in totals:
                    totals[placement] += makespan(placement, conversations, tokens) / len(SEEDS)
            ratio = totals[ours] / min(totals[pinned], totals[spread])
            print(
                f"{workload}, {count} x {STREAMS} streams on {REPLICAS} replicas: ours {totals[ours]:.2f} s, "
                f"pin {totals[pinned]:.2f} s, spread {totals[spread]:.2f} s; ratio {ratio:.2f}, target {TARGET:g}"
            )


if __name__ == "__main__":
    Script(__doc__).run(main)
