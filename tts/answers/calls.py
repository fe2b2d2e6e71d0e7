"""Calls of functions, as models of the Hermes kind spell them: `<tool_call>`, a JSON object, `</tool_call>`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from tts.answers.base import AnswerKind, register
from tts.answers.json import canonical, spelled

BEGIN, END = "<tool_call>", "</tool_call>"
WIDEST = 16
"""Blanks in a row within a call's JSON: some models never end them, once they have begun."""


class ToolCall(BaseModel):
    """A function that a model wants called; `arguments` are the text of a JSON object."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    arguments: str


class Spoken(NamedTuple):
    """What is said in a text beside its calls, and the calls."""

    said: str
    calls: tuple[ToolCall, ...]


@register
class Calls(AnswerKind):
    """The functions that a text calls, all of them, in canonical form; where it calls none, the whole text.

    A text that was cut short has no answer: more calls may have been coming.
    """

    name: ClassVar[str] = "calls"
    forced: ClassVar[bool] = False

    def find(self, text: str, finished: bool) -> str | None:
        spoken = heard(text) if finished else None
        if spoken is None or not spoken.calls:
            return spoken and (spoken.said or None)
        try:
            return canonical([{"name": each.name, "arguments": each.arguments} for each in spoken.calls])
        except RecursionError:  # nested deeper than any answer
            return None


def heard(text: str) -> Spoken | None:
    """The calls of a text, and what it says beside them. None where one of them is no call."""
    said, calls, at = [], [], 0
    while (begun := text.find(BEGIN, at)) >= 0:
        said.append(text[at:begun])
        found = _call(text, begun + len(BEGIN))
        if found is None:
            return None
        call, at = found
        calls.append(call)
    return Spoken("".join([*said, text[at:]]).strip(), tuple(calls))


def _call(text: str, at: int) -> tuple[ToolCall, int] | None:
    """The call that a text holds from there on, and where it ends. JSON is read to its own end: an argument may well
    spell what ends a call."""
    try:
        value, end = _DECODER.raw_decode(text, _past_blanks(text, at))
        name, arguments = value["name"], value["arguments"]
        end = _past_blanks(text, end)
        if not isinstance(arguments, dict) or not text.startswith(END, end):
            return None
        return ToolCall(name=name, arguments=spelled(arguments)), end + len(END)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _past_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _finite(digits: str) -> float:
    """A number that JSON can spell again."""
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits} is no number of JSON, or too large to be written again")
    return number


_BLANKS = re.compile(r"\s*")
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def grammar(functions: Sequence[tuple[str, Any]], *, required: bool, parallel: bool) -> str:
    """What holds a text to well-formed calls of these functions (names and JSON Schemas of their arguments): an
    xgrammar structural tag. `required`: nothing but calls, at least one; else they may come anywhere in a text."""
    tags = [_tag(name, schema) for name, schema in functions]
    common = {"tags": tags, "at_least_one": required, "stop_after_first": not parallel}
    form = (
        {"type": "tags_with_separator", "separator": "\n"}
        if required
        else {"type": "triggered_tags", "triggers": [BEGIN]}
    )
    return json.dumps({"type": "structural_tag", "format": {**form, **common}})


def _tag(name: str, schema: Any) -> dict[str, Any]:
    return {
        "type": "tag",
        "begin": f'{BEGIN}\n{{"name": "{name}", "arguments": ',
        "content": {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": WIDEST},
        "end": f"}}\n{END}",
    }
