"""What comes of one streamed chat completion, chunk by chunk, and what it is charged with.

Charged is what the provider itself counted. Where it did not, LiteLLM fills in an estimate of its own, and where the
answer broke off an end of its own: neither is used here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from tts.backends.base import Request
from tts.errors import BackendError
from tts.types import Completion, Finish, Usage


@dataclass
class Draft:
    """What has come of a request so far."""

    request: Request
    began: float = field(default_factory=time.perf_counter)
    sent: bool = False
    """Whether something may have been generated."""
    answered: bool = False
    """Whether the provider began to answer, or was at it."""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    finish: str | None = None
    watched: bool = False
    usages: list[Any] = field(default_factory=list)

    async def fill(self, stream: Any) -> None:
        """Take in a stream of LiteLLM's to its end, or until the watch has seen enough."""
        try:
            async for chunk in stream:
                self._add(chunk)
                if self.watched:
                    return
        finally:
            # Some providers are only asked when the first chunk is wanted.
            self.answered = stream.completion_stream is not None
        if stream.received_finish_reason is None and stream.intermittent_finish_reason is None:
            self.finish = None
        self.usages = [each.usage for each in stream.chunks if getattr(each, "usage", None) is not None]

    def _add(self, chunk: Any) -> None:
        for choice in chunk.choices[:1]:
            self.finish = choice.finish_reason or self.finish
            if choice.delta.content:
                self.pieces.append(choice.delta.content)
                tokens = getattr(getattr(choice, "logprobs", None), "content", None)
                self.logprobs += [token.logprob for token in tokens] if tokens else [None]
                watch = self.request.watch
                self.watched = watch is not None and watch(self._so_far("watched", len(self.pieces)))

    def cut(self, finish: Finish) -> Completion:
        """What came before the call was cut. Nobody says what was generated, so all that was held is charged."""
        return self._so_far(finish, self.request.max_tokens if self.sent else 0)

    def ended(self, model: str) -> Completion:
        """The whole answer. Raises `BackendError` where it is none."""
        if self.finish is None or not self.usages:
            raise BackendError(f"{model}: the answer {'broke off' if self.finish is None else 'came without a usage'}")
        try:
            usage = self._usage()
            if self.finish not in ("stop", "length"):
                raise BackendError(f"{model}: the answer ended with {self.finish}", usage=usage)
            return Completion(
                text="".join(self.pieces),
                token_ids=None,
                logprob=self._logprob(),
                self_certainty=None,
                finish="stop" if self.finish == "stop" else "length",
                usage=usage,
            )
        except ValidationError as error:
            raise BackendError(f"{model}: reported what is no number of tokens, or no probability") from error

    def _so_far(self, finish: Finish, completion: int) -> Completion:
        prompt = self.request.prompt_tokens if completion else 0
        usage = Usage.of(prompt=prompt, cached=0, completion=completion, seconds=self._seconds())
        text = "".join(self.pieces)
        return Completion(text=text, token_ids=None, logprob=None, self_certainty=None, finish=finish, usage=usage)

    def _usage(self) -> Usage:
        """A provider that reports more than once reports totals."""
        prompt = max(each.prompt_tokens or 0 for each in self.usages)
        cached = max(_detail(each.prompt_tokens_details, "cached_tokens") for each in self.usages)
        completion = max(each.completion_tokens or 0 for each in self.usages)
        return Usage.of(prompt=prompt, cached=min(cached, prompt), completion=completion, seconds=self._seconds())

    def _logprob(self) -> float | None:
        """None too where hidden reasoning is among the tokens: its log-probabilities are not told."""
        hidden = any(_detail(each.completion_tokens_details, "reasoning_tokens") for each in self.usages)
        told = [each for each in self.logprobs if each is not None]
        return sum(told) if told and len(told) == len(self.logprobs) and not hidden else None

    def _seconds(self) -> float:
        return time.perf_counter() - self.began


def _detail(details: Any, name: str) -> int:
    return getattr(details, name, None) or 0
