"""Mathematical answers: boxed, announced, or the last number; equivalent when `math-verify` says so."""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from typing import ClassVar

from tts.answers.base import AnswerKind, register

_BRACE = re.compile(r"\\f?boxed\s*\{|\\\\(?!f?boxed)|\\[{}]|[{}]")
_EXPRESSION = re.compile(
    r"[\\^_]|[-+*/]\s*[a-z]\b|\b[a-z]\s*[-+*/]"  # a letter with an operator
    r"|\d\s*[+*]\s*\d|\d\s+[-/]\s+\d"  # a sum nobody worked out
    r"|^[\s$*]*[(\[]\s*-?[\d.]+\s*,"  # a pair, an interval
)
_NUMBER = re.compile(
    r"(?<![\w.])-?(?:\\?\$)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d+\b|/\d+)?|(?<![\w.])-?\.\d+"
)
# Many a model writes its headings with ####, so there a bare number or formula must follow, and no "1. First step".
_ANNOUNCED = re.compile(
    r"(?:answer\s*(?:is\b|:|=)[\s:=]*|####[\s:]*(?=[-$\\(*.\d])(?!\d+\.[ \t]+\S))(?P<rest>[^\s:=][^\n]*)", re.IGNORECASE
)
_REASON = re.compile(r"(?<=[\d)}\]$*%])\.\s|\s(?:because|since)\s")
_GOES_ON = re.compile(r",?\s*[a-z]|\s*[$%)!;]|\*\*|\.\s", re.IGNORECASE)
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(-?\d+)\}\{(-?\d+)\}")
_UNIT = re.compile(r"(?<=\d)\s*\\(?:text|mathrm|mbox)\{[^{}]*\}(?:\^\{?\d\}?)?$")
_DECORATION = re.compile(r"\\(?:left|right)(?![a-zA-Z])|\\[$()\[\]]|\\[,;! ](?![a-zA-Z])|\$")
_IDLE_SPACE = re.compile(r" (?![a-zA-Z\d])|(?<![a-zA-Z\d]) ")


@register
class Maths(AnswerKind):
    """A number or an expression, compared by value and not by spelling."""

    name: ClassVar[str] = "maths"
    instruction: ClassVar[str] = "Reason step by step, and put your final answer within \\boxed{}."
    finisher: ClassVar[str] = "\n\nThe final answer is \\boxed{"
    exact_match: ClassVar[bool] = False

    def find(self, text: str, finished: bool) -> str | None:
        """The last `\\boxed{…}`; else what follows "answer is" or `####`; else, in a finished text, the last
        number."""
        text = text.replace("\N{MINUS SIGN}", "-")
        return last_boxed(text) or _announced(text, finished) or (_last_number(text) if finished else None)

    def quick(self, one: str, other: str) -> bool | None:
        left, right = plain(one), plain(other)
        if left == right:
            return True
        values = value(left), value(right)
        return values[0] == values[1] if None not in values else None

    def same(self, one: str, other: str) -> bool:
        """Equivalence by `math-verify`, in either order (it takes its first argument for the truth).

        Its own time-outs are signals, which only a main thread may use, so they are off: whoever calls this
        bounds it from outside, with a process that can be killed.
        """
        verdict = self.quick(one, other)
        return self._verified(one, other) if verdict is None else verdict

    def _verified(self, one: str, other: str) -> bool:
        from math_verify import parse, verify

        logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time-outs are off
        left, right = (parse(f"${plain(answer)}$", parsing_timeout=None) for answer in (one, other))
        if not left or not right:
            return False
        return bool(verify(left, right, timeout_seconds=None) or verify(right, left, timeout_seconds=None))


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{…}` or `\\fbox{…}` that is closed, braces balanced, in one pass."""
    opened: list[int | None] = []
    found = (-1, -1)
    for brace in _BRACE.finditer(text):
        if brace.group() in ("\\\\", "\\{", "\\}"):
            continue
        if brace.group() != "}":
            opened.append(brace.end() if len(brace.group()) > 1 else None)
        elif opened and (start := opened.pop()) is not None:
            found = max(found, (start, brace.start()))
    return text[slice(*found)].strip() or None if found[0] >= 0 else None


def _announced(text: str, finished: bool) -> str | None:
    """What follows the last announcement: an expression up to its full stop, or the last number among words.

    In a text that was cut short something must follow it, or a digit or a term may be missing.
    """
    matches = list(_ANNOUNCED.finditer(text))
    if not matches:
        return None
    stated, *reasons = _REASON.split(matches[-1]["rest"].replace("\\$", "$"), maxsplit=1)
    rest = stated.rpartition("=")[2]
    complete = finished or bool(reasons) or matches[-1].end() < len(text)
    numbers = list(_NUMBER.finditer(rest))
    if numbers and not _EXPRESSION.search(rest):
        return _clean(numbers[-1].group()) if complete or _ended(numbers[-1]) else None
    return rest.strip().rstrip(".").strip("$* ") or None if complete else None


def _ended(number: re.Match[str]) -> bool:
    """Whether what was written behind a number shows that it, and its term, are complete: "3." may become 3.5."""
    behind = number.string[number.end() :]
    return bool(_GOES_ON.match(behind)) or ("." in number.group() and behind.startswith("."))


def _last_number(text: str) -> str | None:
    numbers = _NUMBER.findall(text)
    return _clean(numbers[-1]) if numbers else None


def _clean(number: str) -> str:
    return number.replace(",", "").replace("$", "").replace("\\", "")


def plain(answer: str) -> str:
    """An answer without its decoration: dollar signs, idle spaces, a unit in `\\text{}`, thousands separators."""
    undecorated = _DECORATION.sub("", answer.replace("\N{MINUS SIGN}", "-").replace("{,}", ","))
    bare = _IDLE_SPACE.sub("", _UNIT.sub("", " ".join(undecorated.split()))).rstrip(".")
    if re.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", bare):
        return bare.replace(",", "")
    fraction = _FRACTION.fullmatch(bare)
    return fraction.expand(r"\1\2/\3") if fraction else bare


def value(bare: str) -> Fraction | None:
    """The value of a plain decimal or fraction, exactly; None for anything else, however numeric it looks."""
    if not re.fullmatch(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3}|/\d+)?", bare) or len(bare) > 200:
        return None
    numerator, _, denominator = bare.partition("/")
    if denominator and int(denominator) == 0:
        return None
    return Fraction(numerator) / Fraction(denominator or 1)
