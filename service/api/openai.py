"""OpenAI's API over our jobs, for its official client unchanged."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from service.api.chat import ChatChoice, ChatRequest, ChatUsage, Completed, Model, Models, Said
from service.api.door import Tenant
from service.api.events import Event, Follower
from service.api.jobs import Desk, Key, desk, failed
from service.api.messages import Called, CalledTool
from service.api.problems import Fault, answered, response
from service.api.streams import EventStream
from service.outcome import Outcome
from service.spec import Spec
from service.store.nouns import Job
from tts.answers import AnswerKind, Calls
from tts.answers.calls import heard

LOOK = 0.5
"""Seconds between two looks at whether the caller is still there."""

router = APIRouter(prefix="/v1", responses=answered(), tags=["openai"])
ModelId = Annotated[str, Path(min_length=1, max_length=200)]


@router.get("/models")
async def models(request: Request, tenant: Tenant) -> Models:
    """What `model` may be, alone or followed by a strategy: `NAME:STRATEGY`."""
    return Models(data=[Model(id=name) for name in desk(request).asking.models])


@router.get("/models/{id:path}")
async def model(request: Request, tenant: Tenant, id: ModelId) -> Model:
    """A model, by whatever a chat completion may call it: alone, or followed by a mode, a strategy or both."""
    desk(request).asking.known(id)
    return Model(id=id)


@router.post("/chat/completions", response_model=Completed, responses=answered(500, 502))
async def chat(request: Request, tenant: Tenant, body: ChatRequest, key: Key = None) -> Any:
    """A chat completion. `usage` is the whole spend, `max_completion_tokens` caps the answer and `budget` the spend.
    With `n`, distinct answers, the best first, and fewer where there are no more. A caller who goes away cancels."""
    here = desk(request)
    spec = here.asking.chat(body)
    # A seat comes before the job: one that nobody can be told of is not to run.
    with here.streams.seat() if body.stream else ExitStack() as seat:
        job = await here.take(tenant, [spec], key, body, store=body.store is not False)
        if body.stream:
            stream = _Stream(here, tenant, job, body, spec)
            seat.callback(stream.left)
            return EventStream(stream.chunks(), seat.pop_all())
    ended = await _answered(here, request, tenant, job)
    if ended.error:
        raise failed(ended)
    return completed(ended, body, spec)


async def _answered(here: Desk, request: Request, tenant: str, id: str) -> Job:
    """The job when it has ended; cancelled when its caller goes away."""
    try:
        while True:
            job = await here.waited(tenant, id, LOOK)
            if job.over:
                return job
            if await request.is_disconnected():
                raise Fault(408, "slow", "the caller has gone")
    except (asyncio.CancelledError, Fault):
        here.later(here.store.cancel(tenant, id))
        raise


def completed(job: Job, asked: ChatRequest, spec: Spec) -> Completed:
    """A job that has ended, as a chat completion."""
    outcome = Outcome.model_validate(job.result)
    texts = [text for text in (outcome.text, *(each.text for each in outcome.alternatives)) if text is not None]
    choices = [_choice(job, i, text, spec.problem.kind, outcome) for i, text in enumerate(texts)]
    choices = choices or [_refusal(outcome)]
    notes = list(outcome.notes)
    if texts and len(texts) < (asked.n or 1):
        notes.append(f"{asked.n} answers were asked for, and {len(texts)} distinct ones were found")
    return Completed(
        id=f"chatcmpl-{job.id}",
        created=int(job.created),
        model=asked.model or spec.model,
        choices=choices,
        usage=usage(outcome),
        tts={
            "job": job.id,
            "answer": outcome.answer,
            "strategy": outcome.strategy,
            "stop": outcome.stop,
            "chosen": outcome.chosen,
            "votes": [vote.model_dump() for vote in outcome.votes],
            "bill": outcome.bill.model_dump(),
            "notes": notes,
        },
    )


def _choice(job: Job, index: int, text: str, kind: AnswerKind, outcome: Outcome) -> ChatChoice:
    said = text.rpartition(kind.after)[2].lstrip("\n") if kind.after else text
    if index == 0 and outcome.finish not in ("stop", None):
        return ChatChoice(index=index, message=Said(content=said), finish_reason="length")
    spoken = heard(said) if isinstance(kind, Calls) else None
    if spoken is None or not spoken.calls:
        return ChatChoice(index=index, message=Said(content=said), finish_reason="stop")
    calls = [
        # Callers may not send as much as a model may say.
        CalledTool(
            id=f"call_{job.id.removeprefix('job_')}_{index}_{i}",
            function=Called.model_construct(name=call.name, arguments=call.arguments),
        )
        for i, call in enumerate(spoken.calls)
    ]
    return ChatChoice(
        index=index, message=Said(content=spoken.said or None, tool_calls=calls), finish_reason="tool_calls"
    )


def _refusal(outcome: Outcome) -> ChatChoice:
    why = f"no answer: stopped by {outcome.stop}" if outcome.stop != "done" else "no answer was found"
    return ChatChoice(index=0, message=Said(content=None, refusal=why), finish_reason="length")


def usage(outcome: Outcome) -> ChatUsage:
    """The whole spend in OpenAI's words."""
    told = outcome.usage
    prompt = told.prompt_tokens + told.verifier_tokens
    return ChatUsage(
        prompt_tokens=prompt,
        completion_tokens=outcome.bill.tokens,
        total_tokens=prompt + outcome.bill.tokens,
        prompt_tokens_details={"cached_tokens": told.cached_tokens + told.verifier_cached_tokens},
    )


def _delta(said: Said) -> dict[str, Any]:
    """A message as one piece of a stream."""
    calls = [{"index": i, **call.model_dump()} for i, call in enumerate(said.tool_calls or ())]
    told = {"content": said.content, "refusal": said.refusal, "tool_calls": calls or None}
    return {name: value for name, value in told.items() if value is not None}


class _Stream:
    """A completion as chunks: text once it is final, and what the search is doing where that is asked for."""

    def __init__(self, here: Desk, tenant: str, job: str, asked: ChatRequest, spec: Spec) -> None:
        self._here, self._tenant, self._job, self._asked, self._spec = here, tenant, job, asked, spec
        self._votes: Counter[str] = Counter()
        self._samples = self._tokens = 0
        self._over = False
        self._created = int(time.time())

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._chunk({"role": "assistant", "content": ""})
        follower = Follower(self._here.store, self._here.news, self._tenant, self._job, 0)
        async with aclosing(follower.events(self._here.settings.heartbeat_seconds)) as events:
            async for event in events:
                if event is None:
                    yield b": still here\n\n"
                elif event.name in ("result", "purged"):
                    self._over = True
                elif self._asked.progress and (line := self._line(event)):
                    yield self._chunk({"reasoning_content": line})
        for chunk in await self._end():
            yield chunk

    def left(self) -> None:
        """Nobody listens any more, or nobody ever did: what is not over is cancelled."""
        if not self._over:
            self._here.later(self._here.store.cancel(self._tenant, self._job))

    async def _end(self) -> list[bytes]:
        job = await self._here.store.job(self._tenant, self._job)
        if job is None or job.error:
            fault = failed(job) if job else Fault(404, "no_job", "the job was purged")
            return [b"data: " + bytes(response(fault).body) + b"\n\n", b"data: [DONE]\n\n"]
        told = completed(job, self._asked, self._spec)
        chunks = []
        for choice in told.choices:
            chunks += [
                self._chunk(_delta(choice.message), choice.index),
                self._chunk({}, choice.index, finish=choice.finish_reason, tts=told.tts if not choice.index else None),
            ]
        options = self._asked.stream_options
        if options and options.include_usage:
            chunks.append(self._data({"choices": [], "usage": told.usage.model_dump()}))
        return [*chunks, b"data: [DONE]\n\n"]

    def _line(self, event: Event) -> str:
        """One line on how far the search is."""
        told = json.loads(event.data)
        if event.name != "settled" or told["role"] != "policy":
            return ""
        self._samples += 1
        self._tokens += told["tokens"]
        if told.get("answer") is not None:
            self._votes[str(told["answer"])[:80]] += 1
        leading = self._votes.most_common(1)
        votes = f"; leading: {leading[0][0]} ({leading[0][1]})" if leading else ""
        return f"{self._samples} samples, {self._tokens:,} tokens{votes}\n"

    def _chunk(
        self, delta: dict[str, Any], index: int = 0, *, finish: str | None = None, tts: dict[str, Any] | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}
        return self._data({"choices": [choice], **({"tts": tts} if tts else {})})

    def _data(self, told: dict[str, Any]) -> bytes:
        chunk = {
            "id": f"chatcmpl-{self._job}",
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._asked.model,
            **told,
        }
        return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"
