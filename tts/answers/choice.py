"""One letter out of a few."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field

from tts.answers.base import AnswerKind, register
from tts.answers.maths import last_boxed

_MARKUP = re.compile(r"\\(?:text|math)\w*")
_STATED = r"(?i:answer\s*(?:is\b|:)[\s*:$\[\\{]*(?:option\s|choice\s)?[\s*]*)\(?"


@register
class Choice(AnswerKind):
    """A multiple-choice letter; `letters` are those on offer."""

    name: ClassVar[str] = "choice"
    instruction: ClassVar[str] = 'Reason step by step, and end with "The answer is (X)", X being one letter.'
    finisher: ClassVar[str] = "\n\nThe answer is ("

    letters: Annotated[str, Field(pattern=r"^[A-Z]{2,26}$")] = "ABCD"

    def find(self, text: str, finished: bool) -> str | None:
        """The boxed letter; else the last "answer is (X)"; else, in a finished text, a last line that is nothing
        but the letter, or the last `(X)`. In a text that was cut short "answer is B" may be about to say Because."""
        boxed = re.match(rf"\W*([{self.letters}])(?:[).:]|\W*$)", _MARKUP.sub("", last_boxed(text) or ""))
        if boxed:
            return boxed[1]
        stated = re.findall(rf"{_STATED}([{self.letters}])\b{'' if finished else '(?!$)'}", text)
        if stated or not finished:
            return stated[-1] if stated else None
        alone = re.fullmatch(rf"\W*([{self.letters}])\W*", text.rstrip().rpartition("\n")[2])
        mentioned = [alone[1]] if alone else re.findall(rf"\(([{self.letters}])\)", text)
        return mentioned[-1] if mentioned else None
