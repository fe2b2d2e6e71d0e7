"""The lab's primary task; see `evals.lab.chain`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path as File

from evals.lab import chain
from evals.lab.splits import Split, drawn
from evals.suites.base import Row, Suite, same_answer
from tts.types import Sampling, digest

BINS = {"easy": (7, 9), "medium": (11, 13), "hard": (14, 14)}
"""Needed operations, from and to: cut where `chain-2m` solves about 70, 40 and 25 % with one sample. Policies
learn from problems of up to 14: with 15 they solve 3 %."""


def rows(split: Split) -> Iterator[Row]:
    """Without end, the three bins in turn."""
    rng = random.Random(f"chain/{split}")
    while True:
        for group, (fewest, most) in BINS.items():
            operations = rng.randint(fewest, most)
            problem = drawn(split, rng, partial(chain.generate, operations=operations))
            yield Row(id=digest(problem.prompt), problem=problem.prompt, answer=problem.answer, group=group)


SUITE = Suite(
    name="chain",
    about="definitions followed back and computed forward modulo 23; three bins by operations; trained lab policies",
    kind=chain.Values(),
    rows=rows,
    right=same_answer,
    quick=True,
    backend=f"local:{File(__file__).parents[1] / 'lab' / 'models' / 'chain-2m'}",
    sampling=Sampling(temperature=1.0, max_tokens=256),
    splits=("train", "dev", "test"),
)
