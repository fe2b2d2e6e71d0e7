"""Monte-Carlo labels, with a policy that errs where it is told to."""

from __future__ import annotations

import asyncio
import math
import random
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("torch", reason="the local backend's extra is not installed")

from evals.lab import chain, rollouts
from evals.lab.examples import read_rollouts, rollouts_of
from evals.lab.rollouts import COMPLETIONS, SAMPLES, Labeller
from evals.lab.tokens import ALPHABETS
from tts.backends.base import Request
from tts.types import Completion, Usage
from tts.types import Path as Search

TOKENS = ALPHABETS["chain"].tokens


class Policy:
    """Solves a problem from any prefix without a false step. Of its first samples, every other one goes wrong at a
    random line; and from a false step on it is hopeless."""

    def __init__(self, _: Path | None = None) -> None:
        self.asked: list[str] = []

    def prompt_tokens(self, path: Search) -> int:
        return len(path.start)

    async def generate(self, request: Request) -> Completion:
        ids = [part for part in request.path.start if isinstance(part, int)]
        prompt, _, prefix = "".join(TOKENS[i] for i in ids[1:]).partition("?\n")
        problem = chain.read(prompt + "?")
        self.asked.append(prefix)
        steps = list(problem.steps)
        done = len(chain.steps_of(prefix))
        if prefix and not all(chain.judge(problem, prefix.rstrip("\n"))):
            steps[-1] = "=0,0,0"
        elif not prefix and request.seed % 2:
            broken = random.Random(request.seed).randrange(len(steps))
            steps[broken] = "?\n" if broken < len(steps) - 1 else "=1,1"
            steps[-1] = "=1,1"
        usage = Usage.of(prompt=len(ids), cached=0, completion=9, seconds=0.0)
        text = "".join(steps[done:])
        return Completion(text=text, token_ids=None, logprob=None, self_certainty=None, finish="stop", usage=usage)


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "LocalBackend", Policy)


@pytest.mark.usefixtures("policy")
def test_the_first_hopeless_step_is_found_where_a_solution_leaves_a_right_one() -> None:
    labelled = 0
    for index in range(30):
        labeller = Labeller(Path())
        policy = cast(Any, labeller.backend)
        found = asyncio.run(labeller.label(index))
        assert found.index == index
        if not found.solutions:  # all samples alike: nothing to learn
            assert len(policy.asked) == SAMPLES
            continue
        assert len({solution.steps for solution in found.solutions}) == len(found.solutions) >= 2
        probes = 0
        for solution in found.solutions:
            truth = chain.judge(chain.read(found.prompt.rstrip("\n")), "".join(solution.steps))
            assert solution.first_error == (None if all(truth) else truth.index(False))
            probes += not all(truth)  # it fails where it leaves the right solution, which is the first place tried
        assert (len(policy.asked) - SAMPLES) / COMPLETIONS <= probes
        labelled += 1
    assert labelled > 10


@pytest.mark.usefixtures("policy")
def test_the_first_hopeless_step_is_found_by_bisection() -> None:
    """Where right solutions have nothing in common with this one."""
    rng = random.Random(1)
    for _ in range(20):
        problem = chain.generate(rng, 8)
        steps = list(problem.steps)
        wrong = rng.randrange(len(steps) - 1)
        steps[wrong], steps[-1] = "?\n", "=1,1"
        labeller = Labeller(Path())
        assert asyncio.run(labeller.first_hopeless(problem, steps, [["="]], "key")) == wrong
        prefixes = cast(Any, labeller.backend).asked
        assert len(prefixes) == COMPLETIONS * len(set(prefixes))
        assert len(set(prefixes)) <= 2 + math.log2(len(steps))


@pytest.mark.usefixtures("policy")
def test_labels_are_written_once_and_more_can_be_added(tmp_path: Path) -> None:
    asyncio.run(rollouts.main(tmp_path, 5))
    file = rollouts_of(tmp_path)
    file.write_bytes(file.read_bytes()[:-10])  # a kill in the middle of a line
    asyncio.run(rollouts.main(tmp_path, 8))
    assert [found.index for found in read_rollouts(tmp_path)] == list(range(8))
