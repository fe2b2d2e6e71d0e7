"""One letter out of a few."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field

from tts.answers.base import AnswerKind, register
from tts.answers.maths import last_boxed


@register
class Choice(AnswerKind):
    """A multiple-choice letter; `letters` are those on offer."""

    name: ClassVar[str] = "choice"
    instruction: ClassVar[str] = 'Reason step by step, and end with "The answer is (X)", X being one letter.'
    finisher: ClassVar[str] = "\n\nThe answer is ("

    letters: Annotated[str, Field(pattern=r"^[A-Z]{2,26}$")] = "ABCD"

    def extract(self, text: str, finished: bool) -> str | None:
        """The boxed letter; else the last "answer is (X)"; else, in a finished text, the last `(X)` or a last
        line that is nothing but the letter."""
        boxed = re.fullmatch(rf"\W*(?:\\text\{{)?\W*([{self.letters}])\W*", last_boxed(text) or "")
        if boxed:
            return boxed[1]
        stated = re.findall(rf"(?i:answer\s*(?:is|:))[\s*]*\(?([{self.letters}])\b", text)
        if stated or not finished:
            return stated[-1] if stated else None
        mentioned = re.findall(rf"\(([{self.letters}])\)|^\W*([{self.letters}])\W*$(?!\n)", text.strip(), re.M)
        return "".join(mentioned[-1]) if mentioned else None
