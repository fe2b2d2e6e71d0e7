"""A proxy before one SGLang server that counts what is generated, and fails calls where it is told to.

It changes one thing about requests: an empty system message and the words "User: " before a question are taken away.
Some tools put them there; chat models read over them, but the lab's policy knows nothing except bare problems, and what
is compared is methods.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientConnectionResetError, ClientSession, ClientTimeout, TCPConnector, web

GENERATING = ("/generate", "/v1/chat/completions")
HOP_BY_HOP = {"host", "connection", "content-length", "content-encoding", "transfer-encoding", "accept-encoding"}
EVERY = 8
"""Where calls are failed, one of so many is."""


@dataclass
class Counts:
    """Generating calls that arrived, those answered with 500, those whose client went away, and the tokens of all
    others, as the server counted them."""

    calls: int = 0
    failed: int = 0
    cut: int = 0
    tokens: int = 0


@dataclass
class Proxy:
    """Passes everything on, and counts since the last `reset`."""

    server: str
    counts: Counts = field(default_factory=Counts)
    seed: int | None = None
    """Of the calls that fail; None where none does."""

    def reset(self, seed: int | None) -> None:
        """Count from nothing, and fail calls by that seed."""
        self.counts, self.seed = Counts(), seed

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """The proxy's own address, while it runs."""
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await runner.setup()
        # A connection that is kept may be closed by the server just when it is used again: that call would be lost.
        connector = TCPConnector(limit=0, force_close=True)
        async with ClientSession(connector=connector, timeout=ClientTimeout(total=None)) as self._session:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            try:
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path not in GENERATING:
            return await self._pass(request, await request.read())
        self.counts.calls += 1
        if self.seed is not None and fails(self.counts.calls, self.seed):
            self.counts.failed += 1
            return web.json_response({"error": {"message": "injected failure"}}, status=500)
        return await self._counted(request)

    async def _counted(self, request: web.Request) -> web.StreamResponse:
        counts, tally, done = self.counts, Tally(), False
        try:
            response = await self._pass(request, json.dumps(bare(await request.json())).encode(), tally)
            done = True
            return response
        except ClientConnectionResetError:
            return web.Response()  # to nobody
        finally:
            counts.tokens += tally.tokens
            counts.cut += not done

    async def _pass(self, request: web.Request, body: bytes, tally: Tally | None = None) -> web.StreamResponse:
        """The server's response, chunk by chunk where it streams. A client that goes away cancels this, which closes
        the connection to the server."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = self.server + request.path_qs
        async with self._session.request(request.method, url, data=body, headers=headers) as found:
            kept = {name: value for name, value in found.headers.items() if name.lower() not in HOP_BY_HOP}
            response = web.StreamResponse(status=found.status, headers=kept)
            await response.prepare(request)
            async for chunk in found.content.iter_any():
                if tally is not None:
                    tally.add(chunk)
                await response.write(chunk)
            await response.write_eof()
            return response


def fails(call: int, seed: int) -> bool:
    """Whether the `call`-th one fails, counted from 1: one of every `EVERY`, at a place drawn anew each time."""
    block, place = divmod(call - 1, EVERY)
    return place == random.Random(f"{seed}/{block}").randrange(EVERY)


def bare(body: dict[str, Any]) -> dict[str, Any]:
    """A request without an empty system message, and without "User: " before a question."""
    if "messages" not in body:
        return body
    kept = [message for message in body["messages"] if message["role"] != "system" or message["content"]]
    return {**body, "messages": [_without_label(message) for message in kept]}


def _without_label(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if message["role"] == "user" and isinstance(content, str):
        return {**message, "content": content.removeprefix("User: ")}
    return message


class Tally:
    """The tokens that a response speaks of, also of a stream that was cut."""

    def __init__(self) -> None:
        self._rest, self._seen = b"", dict[int, int]()

    @property
    def tokens(self) -> int:
        self._line(self._rest)
        return sum(self._seen.values())

    def add(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        try:
            found = json.loads(line.removeprefix(b"data: "))
        except ValueError:
            return  # an empty line, the end of a stream, half of a line
        self._seen.update(completed(found))


def completed(found: object) -> Iterator[tuple[int, int]]:
    """Tokens by the number of the completion, as either of the server's two interfaces reports them."""
    for place, each in enumerate(found if isinstance(found, list) else [found]):
        if isinstance(each, dict):
            usage = each.get("usage") or each.get("meta_info") or {}
            if "completion_tokens" in usage:
                yield each.get("index", place), usage["completion_tokens"]
