"""JSON values and tool calls, compared in canonical form."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

from tts.answers.base import AnswerKind, register
from tts.answers.code import FENCE

_OPENING = re.compile(r"\[|\{(?=\s*(?:[\"}]|$))")
_CUT_TOKEN = re.compile(r"[-+.\w]*")


@register
class Json(AnswerKind):
    """The last complete JSON object or array of a text, one in a code block before any in the prose around it.

    The extracted answer is its canonical form: keys sorted, no spaces, 1.0 written 1, and the `arguments` of
    a tool call, which arrive as a string of JSON, opened up. So equal values have equal answers.
    """

    name: ClassVar[str] = "json"
    instruction: ClassVar[str] = "Answer with one JSON value in a ```json code block."
    finisher: ClassVar[str] = "\n\n```json\n"

    def find(self, text: str, finished: bool) -> str | None:
        blocks = [body for body, _ in FENCE.findall(text)]
        try:
            found = [value for body in blocks for value in _outermost(body)] or _outermost(text)
            return canonical(found[-1]) if found else None
        except RecursionError:  # nested deeper than any answer
            return None


def _outermost(text: str) -> list[Any]:
    """Every JSON object or array of `text` that is not inside another one, in order.

    Behind an opening bracket that the end of the text leaves open, all is inside it: a part is not the answer.
    """
    decoder, values, rest = json.JSONDecoder(), [], text.rstrip()
    while opening := _OPENING.search(rest):
        rest = rest[opening.start() :]  # errors count the lines before them, so there must be few
        try:
            value, used = decoder.raw_decode(rest)
            values.append(value)
        except json.JSONDecodeError as error:
            if _CUT_TOKEN.fullmatch(rest, error.pos) or error.msg.startswith("Unterminated"):
                break
            used = 1
        except ValueError:  # an integer of more digits than Python reads
            used = 1
        rest = rest[used:]
    return values


def canonical(value: Any) -> str:
    """The one spelling of a JSON value."""
    return spelled(_opened(value), sort_keys=True, separators=(",", ":"))


def spelled(value: Any, **form: Any) -> str:
    """A value as JSON. Half a surrogate pair stays escaped, for no file could hold it."""
    return json.dumps(value, ensure_ascii=False, **form).encode("utf-8", "backslashreplace").decode()


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
