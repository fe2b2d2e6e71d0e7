from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.fakes import PROBLEM
from tts.types import Budget, Completion, Message, Path, Problem, Sampling, Score, Usage


def completion(text: str, finish: Any = "stop", logprob: float | None = -1.0) -> Completion:
    usage = Usage.of(prompt=5, cached=0, completion=2, seconds=0.0)
    return Completion(text=text, token_ids=(1, 2), logprob=logprob, self_certainty=None, finish=finish, usage=usage)


@pytest.mark.parametrize(
    "units",
    [{}, {"tokens": 0}, {"tokens": -5}, {"seconds": 0}, {"usd": float("nan")}, {"flops": float("inf")}, {"euros": 3}],
)
def test_a_budget_names_a_positive_finite_amount_of_something_known(units: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Budget(**units)


@pytest.mark.parametrize("values", [{"temperature": -1}, {"top_p": 0}, {"max_tokens": 0}, {"stop": ("",)}])
def test_sampling_refuses_what_cannot_be_sampled(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sampling(**values)


def test_usage_has_no_defaults() -> None:
    with pytest.raises(ValidationError):
        Usage(prompt_tokens=1, completion_tokens=1)  # type: ignore[call-arg]


def test_a_prompt_cannot_be_more_than_wholly_cached() -> None:
    with pytest.raises(ValidationError):
        Usage.of(prompt=1, cached=2, completion=0, seconds=0.0)


def test_usages_add_up() -> None:
    one = Usage.of(prompt=10, cached=4, completion=3, seconds=0.5)
    both = one + one
    assert (both.prompt_tokens, both.cached_tokens, both.completion_tokens, both.seconds) == (20, 8, 6, 1.0)


def test_kv_token_steps_are_the_resident_tokens_summed_over_decode_steps() -> None:
    assert Usage.of(prompt=10, cached=0, completion=3, seconds=0.0).kv_token_steps == 11 + 12 + 13


def test_a_problem_cannot_hold_its_reference_answer() -> None:
    with pytest.raises(ValidationError):
        Problem(id="x", messages=PROBLEM.messages, kind=PROBLEM.kind, answer="42")  # type: ignore[call-arg]


def test_forks_share_their_prefix_and_do_not_change_each_other() -> None:
    root = Path.of(PROBLEM).extend(completion("a", "until"), "0.0")
    left, right = root.extend(completion("b"), "1.0"), root.append("!")
    assert (root.text, left.text, right.text) == ("a", "ab", "a!")
    assert left.steps[0] is right.steps[0]
    assert (root.finished, left.finished, left.newest, right.newest) == (
        False,
        True,
        ("1.0", ""),
        ("0.0", "!"),
    )


def test_a_forced_step_costs_nothing_and_opens_the_path_again() -> None:
    path = Path.of(PROBLEM).extend(completion("a"), "0.0").append(" wait")
    assert (path.tokens, path.finish, path.steps[-1].token_ids) == (2, None, None)


def test_paths_differ_in_fingerprint_by_start_text_and_call() -> None:
    root = Path.of(PROBLEM)
    other = Path(start=(Message(role="user", content="else"),))
    paths = [root, other, root.append("a"), root.extend(completion("a"), "0.0"), root.extend(completion("a"), "0.1")]
    assert len({path.fingerprint for path in paths}) == len(paths)


def test_a_score_is_never_negative() -> None:
    with pytest.raises(ValidationError):
        Score(value=-0.1, by="judge")
