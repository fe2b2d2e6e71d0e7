"""JSON values and tool calls, compared in canonical form."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

from tts.answers.base import AnswerKind, register

_OPENING = re.compile(r"[{\[]")


@register
class Json(AnswerKind):
    """The last complete JSON object or array of a text.

    The extracted answer is its canonical form: keys sorted, no spaces, 1.0 written 1, and the `arguments` of
    a tool call, which arrive as a string of JSON, opened up. So equal values have equal answers.
    """

    name: ClassVar[str] = "json"
    instruction: ClassVar[str] = "Answer with one JSON value in a ```json code block."
    finisher: ClassVar[str] = "\n\n```json\n"

    def extract(self, text: str, finished: bool) -> str | None:
        found = _outermost(text)
        return None if not found else canonical(found[-1])


def _outermost(text: str) -> list[Any]:
    """Every JSON object or array of `text` that is not inside another one, in order."""
    decoder, values, position = json.JSONDecoder(), [], 0
    while opening := _OPENING.search(text, position):
        try:
            value, position = decoder.raw_decode(text, opening.start())
            values.append(value)
        except (ValueError, RecursionError):
            position = opening.end()
    return values


def canonical(value: Any) -> str:
    """The one spelling of a JSON value."""
    return json.dumps(_opened(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _opened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arguments(item) if key == "arguments" else _opened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_opened(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _arguments(value: Any) -> Any:
    try:
        return _opened(json.loads(value)) if isinstance(value, str) else _opened(value)
    except ValueError:
        return value
