"""Independent samples, drawn once per problem and seed, and shared by every method that asks for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from tts.backends.base import Backend, Request
from tts.types import Completion, ModelInfo, Path, number

FIRST_CALL = "0"
"""The key of a strategy's first call: where methods that draw independent samples draw all of them."""


class Pool:
    """A backend that answers from its records what was drawn before, and asks another one for the rest.

    The `number`-th sample of a strategy's first call has the same seed in every strategy, so it is the same draw.
    A record is given only where the grant covers it whole. What is cut short by a budget or a halt is not kept: it
    would make the pool a biased one. Each job pays for its prompt once, whoever read it first, and after that as much
    as the backend asks for a prompt it knows: what a method costs must not depend on which others ran before it.
    """

    def __init__(
        self,
        backend: Backend,
        seed: int,
        size: int,
        known: Mapping[int, Completion],
        record: Callable[[int, Completion], Awaitable[None]],
    ) -> None:
        self._backend, self._record = backend, record
        self.known = dict(known)
        """All samples that were recorded, by their numbers."""
        self._cached = max((each.usage.cached_tokens for each in known.values()), default=0)
        self._jobs: set[str] = set()
        self._numbers = {number(f"{seed}/{FIRST_CALL}.{i}"): i for i in range(size)}

    @property
    def info(self) -> ModelInfo:
        return self._backend.info

    def prompt_tokens(self, path: Path) -> int:
        return self._backend.prompt_tokens(path)

    async def generate(self, request: Request) -> Completion:
        place = self._place(request)
        known = None if place is None else self.known.get(place)
        if known is not None and known.usage.completion_tokens <= request.max_tokens:
            return self._charged(known, request)
        completion = await self._backend.generate(request)
        if place is None:
            return completion
        if known is None and self._whole(completion, request):
            self.known[place] = completion
            await self._record(place, completion)
        return self._charged(completion, request)

    def _charged(self, completion: Completion, request: Request) -> Completion:
        self._cached = max(self._cached, completion.usage.cached_tokens)
        cached = self._cached if request.job in self._jobs else 0
        self._jobs.add(request.job)
        usage = completion.usage.model_copy(update={"cached_tokens": cached})
        return completion.model_copy(update={"usage": usage})

    def _whole(self, completion: Completion, request: Request) -> bool:
        """Whether nothing but the model, its context and the way of sampling decided where the sample ends."""
        longest = min(request.sampling.max_tokens, self.info.context - request.prompt_tokens)
        return completion.finish == "stop" or (completion.finish == "length" and request.max_tokens == longest)

    def _place(self, request: Request) -> int | None:
        """Which independent sample this is; None for any other continuation."""
        if request.path.steps or request.until or request.watch:
            return None
        return self._numbers.get(request.seed)
