"""A backend without a model: a handler function says what comes back, and time can be virtual.

What this project's tests use, and what tests of your own strategies can use:

    backend = FakeBackend(lambda request: "the answer is \\\\boxed{42}")
"""

from __future__ import annotations

import asyncio
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from pydantic import ValidationError

from tts.backends.base import CHECKPOINT, Reading, Request
from tts.errors import BackendError
from tts.types import Completion, Finish, Looks, ModelInfo, Path, Sheet, Usage, Verdicts

_PIECE = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True)
class Reply:
    """What the fake says: a text, after `latency` seconds and then `per_token` seconds for each token.

    `probability` is that of every token. A reply with `error` fails after its latency; `stubborn` seconds are
    added to the time it takes to answer a halt.
    """

    text: str
    latency: float = 0.0
    per_token: float = 0.0
    probability: float = 0.5
    self_certainty: float | None = None
    error: str | None = None
    stubborn: float = 0.0


Handler = Callable[[Request], Reply | str]


@dataclass(frozen=True)
class Opinion:
    """What the fake says of a sheet: the looks of each piece that is not skipped, after `latency` seconds; or it fails
    with `error`."""

    pieces: tuple[Looks, ...] = ()
    latency: float = 0.0
    error: str | None = None


Judge = Callable[[Sheet], Opinion]

FAKE = ModelInfo(
    name="fake",
    fingerprint="fake",
    context=1_000_000,
    parameters=1_000_000,
    layers=2,
    attention_width=64,
    capabilities=frozenset({"logprobs", "continue", "abort", "self_certainty"}),
)


def silent(request: Request) -> Reply:
    """A handler for a fake that only reads."""
    return Reply("", error="this model judges, and was asked to write")


class FakeBackend:
    """Cuts the handler's replies into words, one token each, and stops them where a real engine would.

    `generated` counts every token that was made, delivered or not: what a ledger must agree with.
    """

    in_process = True

    def __init__(self, handler: Handler, info: ModelInfo = FAKE, judge: Judge | None = None) -> None:
        self.handler, self.judge = handler, judge
        reads = {"prefill_score"} if judge else set()
        offers = getattr(handler, "offers", ())
        self.info = info.model_copy(update={"capabilities": info.capabilities | reads | {*offers}})
        self.generated = 0
        self.calls = 0

    def prompt_tokens(self, path: Path) -> int:
        length = 0
        for part in path.start:
            length += 1 if isinstance(part, int) else _length(part.content)
        for step in path.steps:
            length += _length(step.text)
        return length

    def sheet_tokens(self, sheet: Sheet) -> int:
        before = sheet.before if isinstance(sheet.before, str) else "".join(each.content for each in sheet.before)
        return _length(before) + sum(_length(piece) + _length(sheet.mark) for piece in sheet.pieces)

    async def read(self, reading: Reading) -> Verdicts:
        self.calls += 1
        opinion = self.judge(reading.sheet) if self.judge else Opinion(error="nobody judges here")
        if opinion.latency and await reading.halt.wait(opinion.latency):
            return Verdicts(pieces=None, usage=Usage.none())
        usage = Usage.of(prompt=reading.prompt_tokens, cached=0, completion=0, seconds=opinion.latency)
        if opinion.error is not None:
            raise BackendError(opinion.error, usage=usage)
        try:
            return Verdicts(pieces=opinion.pieces, usage=usage)
        except ValidationError as error:
            raise BackendError(f"{self.info.name} said of a step what is no number", usage=usage) from error

    async def _halted(self, request: Request, reply: Reply, pieces: list[str]) -> bool:
        """Take the time that a reply takes, and say now and then what there is so far; whether a halt came first."""
        if await request.halt.wait(reply.latency):
            return True
        for done in range(0, len(pieces), CHECKPOINT):
            if done and request.keep:
                usage = _usage(request, done, reply.latency + done * reply.per_token)
                request.keep(_completion(pieces[:done], reply, "until", usage))
            if await request.halt.wait(reply.per_token * min(CHECKPOINT, len(pieces) - done)):
                return True
        return False

    async def generate(self, request: Request) -> Completion:
        self.calls += 1
        answer = self.handler(request)
        reply = Reply(answer) if isinstance(answer, str) else answer
        pieces, finish = _cut(request, reply)
        seconds = reply.latency + reply.per_token * len(pieces)
        began = asyncio.get_running_loop().time()
        if seconds and await self._halted(request, reply, pieces):
            await asyncio.sleep(reply.stubborn)
            elapsed = asyncio.get_running_loop().time() - began
            pieces, finish = pieces[: _generated_by(elapsed - reply.stubborn, reply)], "halted"
        if reply.error is not None:
            raise BackendError(reply.error, usage=_usage(request, 0, seconds))
        self.generated += len(pieces)
        return _completion(pieces, reply, finish, _usage(request, len(pieces), seconds))


def _completion(pieces: list[str], reply: Reply, finish: Finish, usage: Usage) -> Completion:
    return Completion(
        text="".join(pieces),
        token_ids=tuple(map(_token_id, pieces)),
        logprob=math.log(reply.probability) * len(pieces),
        self_certainty=reply.self_certainty,
        finish=finish,
        usage=usage,
    )


def _usage(request: Request, completion: int, seconds: float) -> Usage:
    return Usage.of(prompt=request.prompt_tokens, cached=0, completion=completion, seconds=seconds)


@lru_cache(maxsize=65536)
def _token_id(piece: str) -> int:
    return zlib.crc32(piece.encode("utf-8", "surrogatepass"))


@lru_cache(maxsize=4096)
def _length(text: str) -> int:
    return len(_PIECE.findall(text))


def _generated_by(elapsed: float, reply: Reply) -> int:
    return max(0, int((elapsed - reply.latency) / reply.per_token)) if reply.per_token else 0


def _cut(request: Request, reply: Reply) -> tuple[list[str], Finish]:
    """The pieces of a reply up to its grant, its first stop string or its watch, and why it ends there."""
    pieces: list[str] = []
    text = ""
    if not (request.until or request.sampling.stop or request.watch):
        whole = _PIECE.findall(reply.text)
        return whole[: request.max_tokens], "stop" if len(whole) <= request.max_tokens else "length"
    for piece in _PIECE.findall(reply.text):
        if len(pieces) == request.max_tokens:
            return pieces, "length"
        pieces.append(piece)
        text += piece
        if any(stop in text for stop in request.sampling.stop):
            return pieces, "stop"
        if any(stop in text for stop in request.until):
            return pieces, "until"
        if request.watch is not None and request.watch(_so_far(pieces, text, reply)):
            return pieces, "watched"
    return pieces, "stop"


def _so_far(pieces: list[str], text: str, reply: Reply) -> Completion:
    return Completion(
        text=text,
        token_ids=None,
        logprob=math.log(reply.probability) * len(pieces),
        self_certainty=reply.self_certainty,
        finish="watched",
        usage=Usage.of(prompt=0, cached=0, completion=len(pieces), seconds=0.0),
    )
