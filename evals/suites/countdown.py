"""The lab's verifiable task; see `evals.lab.countdown`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path as File

from evals.lab import countdown
from evals.lab.splits import Split, drawn
from evals.suites.base import Item, Row, Suite
from tts.types import Sampling


def rows(split: Split) -> Iterator[Row]:
    """Without end, three, four and five numbers in turn; no problem twice."""
    rng, seen = random.Random(f"countdown/{split}"), set[str]()
    while True:
        for count in range(countdown.FEWEST, countdown.MOST + 1):
            problem = drawn(split, rng, partial(countdown.generate, count=count))
            if problem.key in seen:
                continue
            seen.add(problem.key)
            answer = countdown.canonical(list(problem.solution))
            yield Row(id=problem.key, problem=problem.prompt, answer=answer, group=f"{count} numbers")


def right(item: Item, answer: str) -> bool:
    """Any way to the target will do, not only the reference's."""
    return countdown.solves(item.problem.messages[0].content, answer)


SUITE = Suite(
    name="countdown",
    about="reach a target from three to five numbers; anyone can check an answer; a trained lab policy",
    kind=countdown.Equations(),
    rows=rows,
    right=right,
    quick=True,
    backend=f"local:{File(__file__).parents[1] / 'lab' / 'models' / 'countdown-2m'}",
    sampling=Sampling(temperature=1.0, max_tokens=128),
    splits=("train", "dev", "test"),
)
