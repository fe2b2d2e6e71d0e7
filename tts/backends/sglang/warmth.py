"""What a server is believed to hold in its prefix cache, so that a prefix is read once and not by all who share it.

SGLang finds a prefix in its radix tree once the first request with it has been read. Requests for the same cold prefix
that arrive together are all read in full, so the first of them leads and the others follow when it has its first token.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

SHORT = 8
"""Tokens. Reading so few again costs less than waiting for somebody else to read them."""


class Link(NamedTuple):
    """A prefix of a text: a name for what it spells, and its length in tokens."""

    key: int
    length: int


Chain = tuple[Link, ...]


def chain(parts: Iterable[Sequence[int]]) -> Chain:
    """The prefixes that end where a part does. Texts that were put together from the same parts have the same links."""
    links: list[Link] = []
    for part in parts:
        key, length = links[-1] if links else (0, 0)
        links.append(Link(hash((key, tuple(part))), length + len(part)))
    return tuple(links)


class Warmth:
    """The prefixes that a cache of `capacity` tokens is believed to hold; the oldest are forgotten first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held: OrderedDict[int, int] = OrderedDict()
        self._tokens = 0
        self._leaders: dict[int, asyncio.Future[None]] = {}

    def known(self, links: Chain) -> int:
        """How many of its first tokens are warm."""
        length = 0
        for link in links:
            if link.key not in self._held:
                break
            length = link.length
        return length

    def leader(self, links: Chain) -> asyncio.Future[None] | None:
        """Whoever is reading now what this text would have to read, done when it has; None where nobody is."""
        known = self.known(links)
        for link in reversed(links):
            if link.length - known > SHORT and link.key in self._leaders:
                return self._leaders[link.key]
        return None

    def lead(self, links: Chain) -> list[int]:
        """Read this text for all who share a prefix of it. Returns what to `follow` up with."""
        known, turn = self.known(links), asyncio.get_running_loop().create_future()
        keys = [link.key for link in links if link.length > known and link.key not in self._leaders]
        self._leaders.update(dict.fromkeys(keys, turn))
        return keys

    def follow(self, led: Sequence[int]) -> None:
        """Whoever waited for these may go on: they are read, or never will be."""
        for key in led:
            turn = self._leaders.pop(key, None)
            if turn is not None and not turn.done():
                turn.set_result(None)

    def add(self, links: Chain) -> None:
        """The server has read this text."""
        before = 0
        for link in links:
            if link.key not in self._held:
                self._held[link.key] = link.length - before
                self._tokens += link.length - before
            self._held.move_to_end(link.key)
            before = link.length
        while self._tokens > self._capacity:
            self._tokens -= self._held.popitem(last=False)[1]

    def forget(self, links: Chain) -> None:
        """The server had not kept this text after all."""
        for link in links:
            self._tokens -= self._held.pop(link.key, 0)

    def clear(self) -> None:
        """The server has been started anew."""
        self._held.clear()
        self._tokens = 0
