from __future__ import annotations

import asyncio
import math

import pytest

from strategies import BestOfN
from tests.fakes import PROBLEM
from tests.tts.test_types import completion
from tts.backends.fake import FAKE, FakeBackend, Reply
from tts.errors import UsageError
from tts.solve import solve
from tts.strategy import Strategy
from tts.types import Budget, Path, Result
from verifiers.confidence import Confidence, geometric_mean_probability, self_certainty

ROOT = Path.of(PROBLEM)


def test_confidence_is_the_geometric_mean_of_all_generated_tokens() -> None:
    # two steps of two tokens each, with summed log-probabilities log 0.25 and log 1
    path = ROOT.extend(completion("a", "until", math.log(0.25)), "0.0").extend(completion("b", logprob=0.0), "1.0")
    assert geometric_mean_probability(path) == pytest.approx(0.25**0.25)


def test_forced_text_counts_for_nothing() -> None:
    path = ROOT.extend(completion("a", logprob=math.log(0.25)), "0.0")
    assert geometric_mean_probability(path.append("Wait, wait, wait")) == geometric_mean_probability(path)


def test_a_step_that_does_not_know_its_log_probability_leaves_the_path_without_a_score() -> None:
    path = ROOT.extend(completion("a"), "0.0").extend(completion("b", logprob=None), "1.0")
    assert geometric_mean_probability(path) is None
    assert geometric_mean_probability(ROOT) is None


def test_self_certainty_is_averaged_over_tokens_and_never_negative() -> None:
    certain = completion("a").model_copy(update={"self_certainty": 3.0})
    unsure = completion("b").model_copy(update={"self_certainty": -1e-9})
    assert self_certainty(ROOT.extend(certain, "0").extend(unsure, "1")) == pytest.approx(1.5)
    assert self_certainty(ROOT.extend(unsure, "0")) == 0.0


def test_self_certainty_is_refused_where_the_backend_sees_no_full_distribution() -> None:
    info = FAKE.model_copy(update={"capabilities": frozenset({"logprobs"})})
    backend = FakeBackend(lambda request: Reply("x", self_certainty=1.0), info)
    with pytest.raises(UsageError, match="needs self_certainty from the backend"):
        _solve(backend, BestOfN(n=2))


def test_best_of_n_by_self_certainty_takes_the_most_certain() -> None:
    replies = iter(Reply(f"\\boxed{{{i}}}", self_certainty=float(i % 3)) for i in range(4))
    result = _solve(FakeBackend(lambda request: next(replies)), BestOfN(n=4))
    assert result.answer is not None
    assert (result.answer.text, result.answer.support) == ("2", 2.0)


def _solve(backend: FakeBackend, strategy: Strategy) -> Result:
    scorer = Confidence(measure="self_certainty")
    return asyncio.run(solve(PROBLEM, strategy, {"policy": backend}, budget=Budget(tokens=500), scorer=scorer))
