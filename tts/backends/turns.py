"""A conversation as a chat template is told it: with a place-holder for everything that callers and models wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from tts.answers import ToolCall
from tts.errors import NoImages, UsageError
from tts.types import Message

PLACE = re.compile("\ue000(\\d+)\ue001")
_QUOTED = re.compile('"(\ue000\\d+\ue001)"')


class Turns:
    """What `told` and `tools` say with place-holders, `texts` have."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.texts: list[str] = []
        """What stands at each place."""
        self.contents: set[int] = set()
        """The places of the turns' own texts."""
        if any(message.images for message in messages):
            raise NoImages("this model takes text only, and no images")
        self.told = [self._turn(message) for message in messages if message.role != "tools"]
        self.tools = [_Json(self._put(each)) for message in messages for each in _functions(message)]

    def check(self, rendered: str) -> None:
        """Refuse a rendering that has not every text exactly once, and the turns in order."""
        found = [int(number) for number in PLACE.findall(rendered)]
        contents = [number for number in found if number in self.contents]
        if sorted(found) != list(range(len(self.texts))) or contents != sorted(contents):
            raise UsageError("the model's chat template drops or repeats a message of this conversation")

    def _turn(self, message: Message) -> dict[str, Any]:
        if not message.calls:
            return {"role": message.role, "content": self._content(message.content)}
        # A template asks whether anything is said beside the calls.
        content = self._content(message.content) if message.content else ""
        return {"role": message.role, "content": content, "tool_calls": [self._call(call) for call in message.calls]}

    def _call(self, call: ToolCall) -> dict[str, Any]:
        return {"type": "function", "function": {"name": call.name, "arguments": _Json(self._put(call.arguments))}}

    def _content(self, text: str) -> str:
        self.contents.add(len(self.texts))
        return self._put(text)

    def _put(self, text: str) -> str:
        self.texts.append(text)
        return place(len(self.texts) - 1)


class _Json(str):
    """The place of what is JSON already."""


def _functions(message: Message) -> list[str]:
    """The functions that may be called, each as JSON."""
    given = json.loads(message.content) if message.role == "tools" else []
    return [json.dumps(each, ensure_ascii=False) for each in given]


def place(number: int) -> str:
    """The place-holder of a text."""
    return f"\ue000{number}\ue001"


def tojson(value: Any, **form: Any) -> str:
    """What templates expect of their filter; what is JSON already stays as it is, also within lists."""
    told = _QUOTED.sub(r"\1", json.dumps(value, **{"ensure_ascii": False, **form}))
    if not isinstance(value, _Json) and any(not isinstance(each, _Json) for each in _places(value)):
        raise TemplateError("it spells a message as JSON")
    return told


def _places(value: Any) -> list[str]:
    """The place-holders within a value."""
    if isinstance(value, str):
        return [value] if PLACE.search(value) else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for part in inner for each in _places(part)]
