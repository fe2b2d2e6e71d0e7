"""The lab's primary task; see `evals.lab.chain`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

from evals.lab import chain
from evals.lab.oracle import Oracle
from evals.lab.settings import MODELS
from evals.lab.splits import Split, drawn
from evals.suites.base import Row, Suite, same_answer
from tts.strategy import Verifier
from tts.types import Sampling, digest
from verifiers import ProcessReward

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


def reward(name: str) -> Verifier:
    """A reward model of `chain-2m`. Taking the product was chosen on dev, for searches over steps."""
    return ProcessReward(model=f"local:{MODELS / f'chain-2m-{name}'}", form="lab", how="prod")


SUITE = Suite(
    name="chain",
    about="definitions followed back and computed forward modulo 23; three bins by operations; trained lab policies",
    kind=chain.Values(),
    rows=rows,
    right=same_answer,
    quick=True,
    backend=f"local:{MODELS / 'chain-2m'}",
    sampling=Sampling(temperature=1.0, max_tokens=256),
    splits=("train", "dev", "test"),
    step_end="\n",
    verifiers={
        "oracle": Oracle(),
        "prm": reward("prm"),
        "prm-off": reward("prm-off"),
        "prm-flipped": reward("prm-flipped"),
        "prm-shuffled": reward("prm-shuffled"),
        "corrector": reward("corrector"),
    },
)
