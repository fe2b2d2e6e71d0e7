from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.answers import Maths
from tts.answers.maths import last_boxed, value

KIND = Maths()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{42}", "42"),
        ("\\boxed{41}, no: \\boxed{42} as 6*7 = 42 and 43 is prime", "42"),
        ("\\boxed{\\frac{3}{4}}", "\\frac{3}{4}"),
        ("$\\boxed{ x^{2_{1}} }$", "x^{2_{1}}"),
        ("\\fbox{7}", "7"),
        ("\\boxed{5} and then \\boxed{unclosed", "5"),
        ("9 * 2 = 18\n#### 18", "18"),
        ("#### 1,234", "1234"),
        ("The answer is $18.", "18"),
        ("The final answer is: **3/4**.", "3/4"),
        ("Answer: -3.5", "-3.5"),
        ("The answer is 5 + 7 = 12 apples.", "12"),
        ("The answer is x^2 + y.", "x^2 + y"),
        ("First 3, then 4, so 12 in all", "12"),
        ("It costs $1,250.50 in total", "1250.50"),
        ("that leaves -7", "-7"),
        ("a probability of .25", ".25"),
        ("version v2x", None),
        ("nothing to see", None),
        ("\\boxed{}", None),
        ("", None),
    ],
)
def test_the_answer_of_a_finished_text(text: str, answer: str | None) -> None:
    assert KIND.extract(text, True) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{42} because", "42"),
        ("so \\boxed{42", None),
        ("16 - 3 = 13, then", None),
        ("The answer is 3.14", None),
        ("The answer is 314 becau", "314"),
        ("The answer is x + y", None),
        ("The answer is x + y\nbecause", "x + y"),
        ("#### 12\n", "12"),
    ],
)
def test_a_text_that_was_cut_short_yields_only_what_it_had_stated(text: str, answer: str | None) -> None:
    assert KIND.extract(text, False) == answer


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ("12", "12.0", True),
        ("1/2", "0.5", True),
        ("\\frac{1}{2}", "0.50", True),
        ("$1,000", "1000", True),
        ("7 \\text{ dollars}", "7", True),
        ("12", "13", False),
        ("0.333", "1/3", False),
        ("-4", "4", False),
        ("\\sqrt{8}", "2\\sqrt{2}", None),
        ("50\\%", "0.5", None),
        ("x", "x", True),
    ],
)
def test_plain_numbers_are_compared_exactly_and_the_rest_is_left_to_math_verify(
    one: str, other: str, verdict: bool | None
) -> None:
    assert KIND.quick(one, other) is verdict
    assert KIND.quick(other, one) is verdict


@pytest.mark.parametrize(
    ("one", "other", "equivalent"),
    [
        ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("\\frac{\\pi}{2}", "\\pi/2", True),
        ("\\sqrt{8}", "3", False),
        ("{{{", "3", False),
    ],
)
def test_expressions_are_compared_by_value(one: str, other: str, equivalent: bool) -> None:
    assert KIND.same(one, other) is equivalent
    assert KIND.same(other, one) is equivalent


@given(st.text(alphabet="\\boxed{}frac 0123456789.,/$-answeri#:\n"), st.booleans())
def test_no_text_makes_extraction_fail(text: str, finished: bool) -> None:
    answer = KIND.extract(text, finished)
    assert answer is None or (answer and KIND.quick(answer, answer))


@given(st.integers(-(10**9), 10**9))
def test_an_integer_is_found_however_it_is_written(number: int) -> None:
    for text in (f"\\boxed{{{number}}}", f"The answer is {number:,}.", f"#### {number}", f"thus {number}"):
        answer = KIND.extract(text, True)
        assert answer is not None
        assert KIND.quick(answer, str(number))


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 20_000, "1," * 100_000, "answer is " * 20_000, "{" * 100_000, "9" * 100_000]
)
def test_a_hostile_text_takes_no_time(text: str) -> None:
    began = time.perf_counter()
    KIND.extract(text, True)
    assert time.perf_counter() - began < 2.0


def test_a_number_of_absurd_length_or_a_division_by_zero_has_no_value() -> None:
    assert value("9" * 500) is None
    assert value("1/0") is None
    assert last_boxed("\\boxed{1") is None


def test_comparing_is_silent() -> None:
    """`math-verify` warns, in every process anew, that the time-outs are off that we do without."""
    code = "from tts.answers import Maths; print(Maths().same('(x+1)^2', 'x^2+2x+1'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("True", "")
