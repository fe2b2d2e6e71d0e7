from __future__ import annotations

from pathlib import Path as File

import pytest

from tts.answers import Code, Maths, kind_from
from tts.errors import UsageError
from tts.profile import Mode, Profile, read_profiles, spoken
from tts.types import Message, Problem

TWO_MODES = """
[models.qwen3-8b]
backend = "sglang:http://a:30000,http://b:30000"
tokenizer = "models/qwen3"
mode = "thinking"
verifier = "prm@sglang:http://c:30000"
budget = { tokens = 8000 }
price = { prompt = 0.05, completion = 0.2 }

[models.qwen3-8b.modes.thinking]
temperature = 0.6
top_p = 0.95
max_tokens = 32768
thinks = true
template = { enable_thinking = true }

[models.qwen3-8b.modes.plain]
temperature = 0.7
template = { enable_thinking = false }
"""


def profiles(text: str, folder: File) -> dict[str, Profile]:
    file = folder / "tts.toml"
    file.write_text(text)
    return read_profiles(file)


def test_a_profile_says_how_each_mode_draws(tmp_path: File) -> None:
    profile = profiles(TWO_MODES, tmp_path)["qwen3-8b"]
    assert profile.chosen("").drawn == {"temperature": 0.6, "top_p": 0.95, "max_tokens": 32768}
    assert profile.chosen("plain").template == {"enable_thinking": False}


def test_the_only_mode_is_the_usual_one_and_else_the_plain_one() -> None:
    hot = Mode(temperature=2.0)
    assert Profile(backend="local:", modes={"hot": hot}).chosen("") == hot
    assert Profile(backend="local:", modes={"hot": hot, "plain": Mode()}).chosen("") == Mode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[models.a]\n", "models.a|backend: Field required|backend"),
        ("[models.a]\nbackend = 'local:'\nmode = 'other'\n", "its mode 'other' is none of its modes: plain"),
        ("[models.a]\nbackend = 'local:'\nmode = 'other'\n", r"tts.toml, \[models.a\]: its mode"),
        (
            "[models.a]\nbackend = 'local:'\ntokeniser = 'x'\n",
            r"\[models.a\]: unknown field 'tokeniser'; .* 'tokenizer'",
        ),
        ("[models.a]\nbackend = 'local:'\nmodes.m.temprature = 1\n", "'modes.m.temprature'; .* 'modes.m.temperature'"),
        ("[models.a]\nbackend = 'local:'\nbudget.token = 1\n", "'budget.token'; .* 'budget.tokens'"),
        (
            "[models.a]\nbackend = 'local:'\nmodes.m.top_k = 20\n",
            "modes.m.top_k is not taken: .* temperature and top_p",
        ),
        ("[models.a]\nbackend = 'local:'\nmodes = { m = {}, n = {} }\n", r'usual one \(m, n\): mode = "…"'),
        ("[models.a]\nbackend = 'local:'\nmodes = {}\n", "which of its modes"),
        ("[model.a]\nbackend = 'local:'\n", r"tables \[models.NAME\] only, not \[model\]"),
        ("models = ", "cannot read the profiles"),
        ("[models.a]\nbackend = 'local:'\nbudget = { tokens = -1 }\n", "budget.tokens"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said_in_one_line(tmp_path: File, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as wrong:
        profiles(text, tmp_path)
    assert "\n" not in str(wrong.value)


def test_a_mode_nobody_knows_is_named_with_the_nearest() -> None:
    profile = Profile(backend="local:", mode="plain", modes={"plain": Mode(), "thinking": Mode(thinks=True)})
    with pytest.raises(UsageError, match="unknown mode 'thinkin'; did you mean 'thinking'"):
        profile.chosen("thinkin")


def test_answers_are_what_comes_after_the_thinking() -> None:
    kind = Maths(after="</think>")
    assert kind.extract("so \\boxed{3}? no.</think>It is \\boxed{4}.", finished=True) == "4"
    assert kind.extract("so \\boxed{3}? wait", finished=True) is None
    assert Maths().extract("so \\boxed{3}", finished=True) == "3"


def test_an_answer_is_asked_for_where_the_thinking_ends() -> None:
    kind = Maths(after="</think>")
    assert kind.ending("still thinking").startswith("</think>")
    assert kind.ending("done</think>so") == kind.finisher


def test_a_kind_travels_with_what_ends_its_thinking_and_without_it_as_before() -> None:
    assert Maths().model_dump() == {"kind": "maths"}
    thinking = Maths(after="</think>")
    assert kind_from(thinking.model_dump()) == thinking
    assert isinstance(kind_from({"kind": "code", "after": "</think>"}), Code)


def test_what_was_thought_in_earlier_turns_is_not_said_again() -> None:
    turns = [
        Message(role="user", content="1+1?"),
        Message(role="assistant", content="easy</think>\n\n2"),
        Message(role="user", content="and what does </think> mean?"),
    ]
    assert [each.content for each in spoken(turns, "</think>")] == ["1+1?", "2", "and what does </think> mean?"]


def test_a_problem_is_asked_as_its_mode_wants() -> None:
    profile = Profile(backend="local:")
    problem = Problem.ask("1+1?", Maths())
    assert profile.asked(problem, Mode(thinks=True)).kind == Maths(after="</think>")
    assert profile.asked(problem, Mode()) == problem


def test_steps_of_free_thinking_have_to_be_named() -> None:
    free, named = Profile(backend="local:"), Profile(backend="local:", step_end="\n\n")
    with pytest.raises(UsageError, match="give --step-end, or step_end in the profile"):
        free.check_steps(Mode(thinks=True), by_steps=True, explicit=False)
    free.check_steps(Mode(thinks=True), by_steps=True, explicit=True)
    free.check_steps(Mode(thinks=True), by_steps=False, explicit=False)
    free.check_steps(Mode(), by_steps=True, explicit=False)
    named.check_steps(Mode(thinks=True), by_steps=True, explicit=False)
