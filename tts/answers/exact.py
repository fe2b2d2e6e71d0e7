"""Short answers that must match to the letter, give or take case and spaces."""

from __future__ import annotations

import re
import unicodedata
from typing import ClassVar

from tts.answers.base import AnswerKind, register

_QUOTES = "*_`\"'“”‘’ "


@register
class Exact(AnswerKind):
    """A name, a word, a date: the rest of the last "Answer:" line, else the last line."""

    name: ClassVar[str] = "exact"
    instruction: ClassVar[str] = 'End with a line "Answer: " and your answer, nothing else on it.'
    finisher: ClassVar[str] = "\n\nAnswer: "

    ignore_case: bool = True

    def find(self, text: str, finished: bool) -> str | None:
        """A line counts once it is complete: the model ended, or began another one."""
        body = text if finished else text.rpartition("\n")[0]
        stated = re.findall(r"(?im)^[^\w\n]*(?:the )?(?:final )?answer[*_ \t]*:\s*(\S.*)$", body)
        lines = stated or (body.strip().splitlines() if finished else [])
        return self.normalised(lines[-1]) or None if lines else None

    def normalised(self, answer: str) -> str:
        flat = " ".join(unicodedata.normalize("NFKC", answer).split()).lstrip(_QUOTES).rstrip(_QUOTES + ".")
        return flat.casefold() if self.ignore_case else flat
