"""A result as the flat object that scripts read and the API returns."""

from __future__ import annotations

import re
from typing import Self

from tts.types import Bill, Noun, Result, Samples, Vote

_ADDRESS = re.compile(r"https?://[^\s()\[\],;'\"]+")


class Tokens(Noun):
    """What models read and wrote. What a cache knew already is `cached`."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    verifier_tokens: int
    verifier_cached_tokens: int
    kv_token_steps: int


class Chosen(Noun):
    """One choice of a search: how many candidates there were, how many it went on with, and the tokens in the KV cache
    before and after."""

    candidates: int
    kept: int
    before: int
    after: int


class Alternative(Noun):
    """Another answer than the best one, and a text that holds it."""

    answer: str
    text: str


class Outcome(Noun):
    """How a job ended: the answer, how it was chosen, and the bill."""

    answer: str | None
    stop: str
    strategy: str
    support: float | None
    chosen: str | None
    extracted: bool | None
    text: str | None
    finish: str | None
    votes: tuple[Vote, ...]
    confidence: float | None
    usage: Tokens
    selections: tuple[Chosen, ...]
    bill: Bill
    samples: Samples
    notes: tuple[str, ...]
    alternatives: tuple[Alternative, ...] = ()

    @classmethod
    def of(
        cls, result: Result, strategy: str, alternatives: tuple[Alternative, ...] = (), *, hidden: bool = False
    ) -> Self:
        """A result; with `hidden`, for those who are not to see where models are."""
        answer = result.answer
        return cls(
            answer=answer.text if answer else None,
            stop=result.stop,
            strategy=strategy,
            support=answer.support if answer else None,
            chosen=answer.chosen if answer else None,
            extracted=answer.extracted if answer else None,
            text=answer.path.text if answer else None,
            finish=answer.path.finish if answer else None,
            votes=answer.votes if answer else (),
            confidence=result.confidence,
            usage=_tokens(result),
            selections=tuple(
                Chosen(candidates=len(each.candidates), kept=len(each.kept), before=each.before, after=each.after)
                for each in result.trace.selections
            ),
            bill=result.bill,
            samples=result.samples,
            notes=tuple(map(anonymous, result.notes)) if hidden else result.notes,
            alternatives=alternatives,
        )


def anonymous(text: str) -> str:
    """What went wrong, without the addresses of servers: those are in the log of whoever runs them."""
    return _ADDRESS.sub("a server of the model", text)


def _tokens(result: Result) -> Tokens:
    policy = [use for role, use in result.usage.items() if role == "policy"]
    others = [use for role, use in result.usage.items() if role != "policy"]
    return Tokens(
        prompt_tokens=sum(use.prompt_tokens for use in policy),
        cached_tokens=sum(use.cached_tokens for use in policy),
        completion_tokens=sum(use.completion_tokens for use in policy),
        verifier_tokens=sum(use.prompt_tokens + use.completion_tokens for use in others),
        verifier_cached_tokens=sum(use.cached_tokens for use in others),
        kv_token_steps=result.trace.kv_token_steps,
    )
