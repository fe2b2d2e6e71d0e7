"""Calls of functions: read whole or not at all."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.answers import Calls
from tts.answers.calls import BEGIN, END, grammar, heard

ADD = f'{BEGIN}\n{{"name": "add", "arguments": {{"b": 2.0, "a": 1}}}}\n{END}'


def test_all_calls_are_the_answer_whatever_is_said_beside_them() -> None:
    one = Calls().extract(f"Let me see. {ADD}", finished=True)
    same = Calls().extract(f'{BEGIN}{{"arguments":{{"a":1,"b":2}},"name":"add"}}{END} Done.', finished=True)
    assert one == same == '[{"arguments":{"a":1,"b":2},"name":"add"}]'
    assert Calls().extract(ADD + ADD, finished=True) != one


def test_without_a_call_the_text_is_the_answer() -> None:
    assert Calls().extract(" It is 3. ", finished=True) == "It is 3."
    assert Calls(after="</think>").extract(f"{ADD}</think>It is 3.", finished=True) == "It is 3."
    assert Calls().extract("", finished=True) is None


def test_what_was_cut_short_has_no_answer() -> None:
    assert Calls().extract(ADD, finished=False) is None


@pytest.mark.parametrize(
    "broken",
    [
        f"{BEGIN}",
        f"{BEGIN} add(1, 2) {END}",
        f'{BEGIN}{{"name": "add", "arguments": {{}}}}',
        f'{BEGIN}{{"name": "add", "arguments": "x"}}{END}',
        f'{BEGIN}{{"name": "a b", "arguments": {{}}}}{END}',
        f'{BEGIN}{{"name": "add"}}{END}',
        f"{BEGIN}[1]{END}",
        f"{BEGIN}{'[' * 100_000}{END}",
        f"{ADD}{BEGIN}",
        *(f'{BEGIN}{{"name": "add", "arguments": {{"a": {a}}}}}{END}' for a in ("1e999", "NaN", "-Infinity")),
        f'{BEGIN}{{"name": "add", "arguments": {{"a": {"[" * 900}{"]" * 900}}}}}{END}',
    ],
)
def test_what_is_no_call_is_no_answer(broken: str) -> None:
    assert Calls().extract(broken, finished=True) is None


@given(
    st.dictionaries(st.text(max_size=5), st.sampled_from([BEGIN, END, "é", '"', "\\", 1, None, [BEGIN]]), max_size=3)
)
def test_arguments_come_back_as_they_were_also_where_they_spell_what_ends_a_call(arguments: dict[str, object]) -> None:
    spoken = heard(f"so {BEGIN}\n{json.dumps({'name': 'f', 'arguments': arguments})}\n{END} and so on")
    assert spoken is not None
    assert json.loads(spoken.calls[0].arguments) == arguments
    assert spoken.said == "so  and so on"


def test_a_grammar_names_every_function_and_how_many_may_be_called() -> None:
    told = json.loads(grammar([("f", {"type": "object"}), ("g", {})], required=False, parallel=True))["format"]
    assert (told["type"], told["at_least_one"], told["stop_after_first"]) == ("triggered_tags", False, False)
    assert [tag["begin"] for tag in told["tags"]] == [f'{BEGIN}\n{{"name": "{n}", "arguments": ' for n in "fg"]
    one = json.loads(grammar([("f", {})], required=True, parallel=False))["format"]
    assert (one["type"], one["at_least_one"], one["stop_after_first"]) == ("tags_with_separator", True, True)


def test_half_a_surrogate_pair_stays_escaped() -> None:
    spoken = heard(f'{BEGIN}{{"name": "add", "arguments": {{"a": "\\ud800"}}}}{END}')
    assert spoken is not None
    assert spoken.calls[0].arguments == '{"a": "\\ud800"}'


def test_many_calls_are_read_in_time_that_grows_with_the_text() -> None:
    began = time.process_time()
    spoken = heard(("\U0001f600" + ADD) * 20_000)
    assert spoken is not None
    assert len(spoken.calls) == 20_000
    assert time.process_time() - began < 5  # it was a minute
