"""Recorded samples through the ordinary door: drawn without replacement, charged what they cost, in virtual time."""

from __future__ import annotations

import asyncio
from functools import lru_cache

from tts.backends.base import Request
from tts.bank import Asked, Bank
from tts.bank.deck import Deck, check, served
from tts.errors import UsageError
from tts.types import Completion, Path

PROBLEMS_AT_HAND = 64
"""Problems whose samples are kept in memory."""


class BankBackend:
    """A model as a bank remembers it.

    Each job draws a problem's samples without replacement, in an order that follows from its seeds. A sample longer
    than its grant is cut there, as the model would have been cut; a halt cuts it in proportion to the time it had. What
    is cut loses its log-probability, which the bank knows only of the whole. A job's first call pays for the prompt as
    if nobody had read it before, the others what the engine charged for a prompt that it knew.
    """

    virtual = True
    """To be run in virtual time, for nothing happens while it waits. What a job was dealt is forgotten with the
    process, so a job on a bank is not resumed but run again, which costs nothing."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self.info = served(bank.manifest.model)
        self._deck = lru_cache(maxsize=PROBLEMS_AT_HAND)(lambda name: Deck(bank, bank.problems[name]))
        self._left: dict[tuple[str, str], list[int]] = {}

    def prompt_tokens(self, path: Path) -> int:
        return self._asked(path).prompt_tokens

    async def generate(self, request: Request) -> Completion:
        deck = self._deck(self._asked(request.path).id)
        check(
            self._bank,
            request.sampling,
            continued=bool(request.path.steps),
            ended_early=bool(request.until or request.watch),
        )
        left = self._left.setdefault((request.job, deck.asked.id), deck.fresh())
        first = len(left) == len(deck.keys)
        place = deck.deal(request.seed, left)
        completion = deck.granted(place, request.max_tokens, first)
        seconds, begun = completion.usage.seconds, asyncio.get_running_loop().time()
        if await request.halt.wait(seconds):
            elapsed = asyncio.get_running_loop().time() - begun
            tokens = int(completion.usage.completion_tokens * elapsed / seconds) if seconds else 0
            return deck.cut(place, tokens, elapsed, "halted", first)
        return completion

    def _asked(self, path: Path) -> Asked:
        asked = self._bank.by_origin.get(path.origin)
        if asked is None:
            raise UsageError(
                f"{self._bank.folder} holds no samples of this prompt: they are of other problems or instructions"
            )
        return asked
