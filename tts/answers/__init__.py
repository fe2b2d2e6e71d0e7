"""Answer kinds: `maths`, `choice`, `exact`, `json`, `code`, `calls`, `text`, and whatever a task registers."""

from tts.answers.base import AnswerKind, kind_from, kinds, register
from tts.answers.calls import Calls, ToolCall
from tts.answers.choice import Choice
from tts.answers.code import Code, Runner
from tts.answers.exact import Exact
from tts.answers.json import Json
from tts.answers.maths import Maths
from tts.answers.text import Text

__all__ = [
    "AnswerKind",
    "Calls",
    "Choice",
    "Code",
    "Exact",
    "Json",
    "Maths",
    "Runner",
    "Text",
    "ToolCall",
    "kind_from",
    "kinds",
    "register",
]
