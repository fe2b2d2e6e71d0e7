"""SGLang's native API, version 0.5: what is sent to `/generate` and `/classify`, and what comes back."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp
from pydantic_core import from_json

from tts.backends.base import Request
from tts.errors import UsageError

STOPS = 32
"""The most stop strings that a server takes."""
NEVER = -1e9
"""Added to the logit of a banned token."""
FEW = 2
"""Connections for short words: kept open they are quicker than one opened for each of many aborts."""
CONNECTING = 5.0
"""Seconds until a server that does not take the connection counts as gone."""


class Failure(Exception):
    """A server did not do what it was asked. `started` says whether it may have begun to, `answered` whether it said so
    itself."""

    def __init__(self, message: str, *, started: bool, answered: bool = False) -> None:
        super().__init__(message)
        self.started, self.answered = started, answered


class Said(NamedTuple):
    """What has been streamed of a continuation: its ids, their summed log-probability, the tokens counted by the
    server, how much of the prompt was cached, and why it ended."""

    ids: tuple[int, ...]
    logprob: float | None
    made: int
    cached: int
    finish: Mapping[str, Any] | None


def generation(request: Request, ids: Sequence[int], tokens: int, stop_ids: Sequence[int], interval: int) -> Any:
    """The body of a request for at most `tokens` more after `ids`, streamed every `interval` tokens."""
    sampling = request.sampling
    stops = list(dict.fromkeys((*sampling.stop, *request.until)))
    if len(stops) > STOPS:
        raise UsageError(f"SGLang takes {STOPS} stop strings, and these are {len(stops)}")
    return {
        "input_ids": list(ids),
        "sampling_params": {
            "max_new_tokens": tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop": stops,
            "stop_token_ids": [*sampling.stop_ids, *stop_ids],
            "logit_bias": {str(i): NEVER for i in sampling.banned_ids} or None,
            "no_stop_trim": True,
            "skip_special_tokens": False,
            "stream_interval": interval,
            "json_schema": sampling.json_schema,
            "structural_tag": sampling.structural_tag,
        },
        "require_reasoning": sampling.thinks and sampling.held,
        "return_logprob": sampling.logprobs,
        "stream": True,
    }


def readout(ids: Sequence[int], asked: Sequence[int], first: int) -> Any:
    """The body of a request for the log-probabilities of the tokens `asked` after place `first` and all later ones.
    What comes before `first` is taken from the cache."""
    return {
        "input_ids": list(ids),
        "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
        "return_logprob": True,
        "logprob_start_len": -1 if first == len(ids) - 1 else first,
        "token_ids_logprob": list(asked),
    }


def looks(reply: Mapping[str, Any], first: int) -> dict[int, tuple[float, ...]]:
    """What a readout says, by place. The row of a token is the distribution that the token before it gives."""
    told = reply["meta_info"]
    rows = [*told["input_token_ids_logprobs"][1:], *told["output_token_ids_logprobs"]]
    return {first + i: tuple(value for value, *_ in row) for i, row in enumerate(rows)}


def said(events: Sequence[bytes], *, deltas: bool) -> Said:
    """What a stream has said so far: the last event tells everything, or, with `deltas`, all of them together do."""
    parts = [from_json(event) for event in (events if deltas else events[-1:])]
    told = parts[-1]["meta_info"]
    rows = [row for part in parts for row in part["meta_info"].get("output_token_logprobs") or ()]
    return Said(
        ids=tuple(i for part in parts for i in part["output_ids"]),
        logprob=_finite(math.fsum(row[0] for row in rows)) if rows else None,
        made=told["completion_tokens"],
        cached=told["cached_tokens"],
        finish=told["finish_reason"],
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Wire:
    """Pooled connections to one server. What goes wrong is a `Failure`."""

    def __init__(self, url: str, key: str | None, limit: int = 0) -> None:
        """At most `limit` connections, or as many as there are calls."""
        self.url = url
        self._key, self._limit = key, limit
        self._session: aiohttp.ClientSession | None = None

    def to(self, url: str) -> Wire:
        """A few connections of their own to a server with the same key, for short words that must not wait."""
        return Wire(url, self._key, FEW)

    async def get(self, path: str, seconds: float) -> Any:
        return await self._whole("GET", path, None, seconds)

    async def post(self, path: str, body: Any, seconds: float | None = None) -> Any:
        return await self._whole("POST", path, body, seconds)

    async def stream(self, path: str, body: Any) -> AsyncIterator[bytes]:
        """The events of a stream, to its end."""
        try:
            async with self._open().post(self.url + path, json=body, timeout=_patient()) as response:
                await self._check(response)
                async for event in _events(response.content):
                    if event == b"[DONE]":
                        return
                    if event.startswith(b'{"error"'):
                        raise Failure(f"{self.url} broke off: {_message(event)}", started=True)
                    yield event
            raise Failure(f"{self.url} broke off in the middle", started=True)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._failure(error) from error

    async def text(self, path: str, seconds: float) -> str:
        """A page that is no JSON."""
        try:
            async with self._open().get(self.url + path, timeout=_patient(seconds)) as response:
                await self._check(response)
                return await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._failure(error) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _whole(self, method: str, path: str, body: Any, seconds: float | None) -> Any:
        try:
            async with self._open().request(method, self.url + path, json=body, timeout=_patient(seconds)) as response:
                await self._check(response)
                answer = await response.read()
                return from_json(answer) if answer else None
        except ValueError as error:
            raise Failure(f"{self.url}{path} answered what is no JSON", started=True) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._failure(error) from error

    def _open(self) -> aiohttp.ClientSession:
        """The session, opened anew in an event loop that it was not made for."""
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.closed or self._session._loop is not loop:
            connector = aiohttp.TCPConnector(limit=self._limit)
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._session = aiohttp.ClientSession(connector=connector, headers=headers)
        return self._session

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status == 400:
            raise UsageError(f"{self.url} refuses the request: {_message(await response.read())}")
        if response.status in (401, 403):
            raise UsageError(f"{self.url} wants another API key")
        if response.status != 200:
            busy = response.status in (429, 503)
            said = f"{self.url} answers {response.status}: {_message(await response.read())}"
            raise Failure(said, started=not busy, answered=True)

    def _failure(self, error: Exception) -> Failure:
        unreached = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        said = "cannot be reached" if unreached else "broke off"
        reason = "it did not answer in time" if isinstance(error, TimeoutError) else _why(error)
        return Failure(f"{self.url} {said}: {reason}", started=not unreached)


def _why(error: Exception) -> str:
    """What is wrong, without the address: that is said already."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "nobody knows its name"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        return os.strerror(error.os_error.errno)
    return str(error) or type(error).__name__


def _patient(seconds: float | None = None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECTING)


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The data of server-sent events, however they were cut into packets: one may be longer than any line limit."""
    buffer, searched = bytearray(), 0
    async for piece in content.iter_any():
        buffer += piece
        while (end := buffer.find(b"\n\n", searched)) >= 0:
            yield bytes(buffer[:end]).removeprefix(b"data: ")
            del buffer[: end + 2]
            searched = 0
        searched = max(0, len(buffer) - 1)


def _message(answer: bytes) -> str:
    """What an error body says, in one line."""
    try:
        told = from_json(answer)
        told = told.get("error", told) if isinstance(told, dict) else told
        told = told.get("message", told) if isinstance(told, dict) else told
    except ValueError:
        told = answer.decode(errors="replace")
    return " ".join(str(told).split())[:300]
