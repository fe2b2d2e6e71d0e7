"""What an answer is: how to find it in a text, and when two of them are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from tts.errors import UsageError, unknown


class AnswerKind(BaseModel):
    """Base of all kinds. A kind is data (it travels in journals) with three questions it can answer.

    A task adds its own kind by subclassing with a `name` of its own and calling `register`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    votes: ClassVar[bool] = True
    """Whether equivalent answers can be counted. Where not, `without_votes` says what to do instead."""
    without_votes: ClassVar[str] = ""
    instruction: ClassVar[str] = ""
    """Appended to a bare question, so that the answer can be found again."""
    finisher: ClassVar[str] = "\n\nThe final answer is: "
    """Forced when a budget ends before an answer came."""
    forced: ClassVar[bool] = True
    """Whether an answer can be forced that way; else a text that was cut short is returned as it is."""
    exact_match: ClassVar[bool] = True
    """Whether `same` is plain equality of extracted answers: then groups are found in one pass."""

    after: str = ""
    """What ends a model's thinking, such as `</think>`: the answer comes after it, whatever was thought before."""

    def extract(self, text: str, finished: bool) -> str | None:
        """The answer in `text`, or None. A text that was cut short yields only what it states as its answer, and one
        whose thinking has not ended yields none."""
        if not self.after:
            return self.find(text, finished)
        _, ended, said = text.rpartition(self.after)
        return self.find(said, finished) if ended else None

    def find(self, text: str, finished: bool) -> str | None:
        """The answer in what is said aloud."""
        raise NotImplementedError

    def ending(self, text: str) -> str:
        """What asks for the answer where `text` broke off."""
        return self.finisher if self.after in text else self.after + self.finisher

    def quick(self, one: str, other: str) -> bool | None:
        """Whether two answers are the same, where that can be said at once; None where `same` must be asked."""
        return self.same(one, other)

    def same(self, one: str, other: str) -> bool:
        """Whether two extracted answers are equivalent. May be slow: it runs in a process of its own."""
        return one == other

    @model_serializer(mode="wrap")
    def _with_name(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": self.name, **{name: value for name, value in handler(self).items() if name != "after" or value}}


_KINDS: dict[str, type[AnswerKind]] = {}


def register(kind: type[AnswerKind]) -> type[AnswerKind]:
    """Make a kind known by its name, to journals, the API and the command line."""
    known = _KINDS.setdefault(kind.name, kind)
    assert known is kind, f"two answer kinds are called {kind.name!r}"
    return kind


def kinds() -> Mapping[str, type[AnswerKind]]:
    """Every registered kind by its name."""
    return _KINDS


def kind_from(value: object) -> AnswerKind:
    """A kind from itself, its name, or its JSON form `{"kind": name, …}`."""
    if isinstance(value, AnswerKind):
        return value
    fields = {"kind": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or "kind" not in fields:
        raise UsageError(f"an answer kind is a name or an object with 'kind', not {value!r}")
    name = str(fields["kind"])
    if name not in _KINDS:
        raise unknown("answer kind", name, _KINDS)
    return _KINDS[name].model_validate({key: item for key, item in fields.items() if key != "kind"})
