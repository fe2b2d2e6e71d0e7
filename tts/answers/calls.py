"""Calls of functions, as models of the Hermes kind spell them: `<tool_call>`, a JSON object, `</tool_call>`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from tts.answers.base import AnswerKind, register
from tts.answers.json import canonical

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
    finisher: ClassVar[str] = "\n\nIn short: "

    def find(self, text: str, finished: bool) -> str | None:
        spoken = heard(text) if finished else None
        if spoken is None or not spoken.calls:
            return spoken and (spoken.said or None)
        return canonical([{"name": each.name, "arguments": each.arguments} for each in spoken.calls])


def heard(text: str) -> Spoken | None:
    """The calls of a text, and what it says beside them. None where one of them is no call."""
    said, begun, rest = text.partition(BEGIN)
    calls = []
    while begun:
        found = _call(rest.lstrip())
        if found is None:
            return None
        calls.append(found[0])
        more, begun, rest = found[1].partition(BEGIN)
        said += more
    return Spoken(said.strip(), tuple(calls))


def _call(body: str) -> tuple[ToolCall, str] | None:
    """The call that a text begins with, and what comes after it. JSON is read to its own end: an argument may well
    spell what ends a call."""
    try:
        value, used = json.JSONDecoder().raw_decode(body)
        name, arguments = value["name"], value["arguments"]
        rest = body[used:].lstrip()
        if not isinstance(arguments, dict) or not rest.startswith(END):
            return None
        return ToolCall(name=name, arguments=json.dumps(arguments, ensure_ascii=False)), rest.removeprefix(END)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


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
