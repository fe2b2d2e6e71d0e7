"""The nouns. All frozen, all validated on construction, all JSON on both sides of a journal."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    model_validator,
)

from tts.answers.base import AnswerKind, kind_from
from tts.answers.calls import ToolCall

Role = str
"""Which model of a job is meant: `policy`, `verifier`, `judge`, `embedder`, …"""

Capability = Literal[
    "logprobs",
    "continue",
    "prefill_score",
    "shared_kv",
    "abort",
    "hidden",
    "self_certainty",
    "grammar",
    "structural_tag",
    "images",
]
Need = Capability | Literal["votes", "scores", "runner"]
"""What a strategy or verifier asks for beyond plain sampling: of the backend, of the answer kind, or of the caller."""

Reason = Literal["budget", "deadline", "cancelled", "stopped", "context", "suspended"]
"""Why a call was refused or cut short: `stopped` means that the strategy itself let it go, `context` that its
prompt fills the model's window, `suspended` that the job is to go on elsewhere, which no journal ever tells."""

Stop = Literal["done", "budget", "deadline", "cancelled"]
Finish = Literal["stop", "until", "length", "halted", "watched"]
"""Why a completion ended: the model was done, a stop string of the caller came up, the grant was used up,
the door asked for what there is, or the caller's `watch` had seen enough."""


class Noun(BaseModel):
    """Frozen data that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Image(Noun):
    """A picture in a message, before the character number `at` of its text. Only pictures that come along: nobody
    fetches anything from an address that a caller names."""

    at: NonNegativeInt
    url: Annotated[str, Field(pattern=r"^data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/=]+$")]


class Message(Noun):
    """One turn of a conversation. `tool` is what a function that was called gave back; `tools` is no turn: its content
    is the JSON list of the functions that may be called. `calls` are those that an assistant's turn called."""

    role: Literal["system", "user", "assistant", "tool", "tools"]
    content: str
    calls: tuple[ToolCall, ...] = ()
    images: tuple[Image, ...] = ()

    def __repr_args__(self) -> Iterable[tuple[str | None, object]]:
        """What is not there is not spelled: conversations are named by their spelling, and keep their names."""
        return [(name, value) for name, value in super().__repr_args__() if value != ()]


class Problem(Noun):
    """What is asked, and the kind of answer wanted. The reference answer is not here, and nowhere near."""

    id: str
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    kind: Annotated[SerializeAsAny[AnswerKind], BeforeValidator(kind_from)]
    step_end: Annotated[str, Field(min_length=1)] = "\n\n"
    """What ends a step of a solution."""

    @classmethod
    def ask(cls, text: str, kind: AnswerKind, instruction: str | None = None) -> Self:
        """A one-turn problem: the text, then an instruction, by default the kind's request for an answer that
        can be found again. An empty one adds nothing."""
        how = kind.instruction if instruction is None else instruction
        content = f"{text}\n\n{how}" if how else text
        return cls(id=digest(content), messages=(Message(role="user", content=content),), kind=kind)


class Usage(Noun):
    """What one model call consumed. Tokens are counted by the engine, never estimated from text.

    `cached_tokens` is the part of the prompt whose prefill was already paid for; `kv_token_steps` is the sum,
    over decode steps, of the tokens resident in the KV cache for this call. `uncertain_tokens` are the most that may
    have been generated beside, by a server that failed before it delivered them; nobody is billed for them.
    """

    prompt_tokens: NonNegativeInt
    cached_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt
    seconds: NonNegativeFloat
    kv_token_steps: NonNegativeInt
    uncertain_tokens: NonNegativeInt = 0

    @model_validator(mode="after")
    def _cached_is_part_of_prompt(self) -> Self:
        if self.cached_tokens > self.prompt_tokens:
            raise ValueError(f"{self.cached_tokens} cached tokens in a prompt of {self.prompt_tokens}")
        return self

    @classmethod
    def none(cls) -> Self:
        return cls(prompt_tokens=0, cached_tokens=0, completion_tokens=0, seconds=0.0, kv_token_steps=0)

    @classmethod
    def of(cls, *, prompt: int, cached: int, completion: int, seconds: float) -> Self:
        """The usage of one continuation decoded on its own copy of its prompt."""
        resident = prompt * completion + completion * (completion + 1) // 2
        return cls(
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=completion,
            seconds=seconds,
            kv_token_steps=resident,
        )

    @classmethod
    def total(cls, usages: Sequence[Usage]) -> Self:
        return cls(
            prompt_tokens=sum(usage.prompt_tokens for usage in usages),
            cached_tokens=sum(usage.cached_tokens for usage in usages),
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            seconds=math.fsum(usage.seconds for usage in usages),
            kv_token_steps=sum(usage.kv_token_steps for usage in usages),
            uncertain_tokens=sum(usage.uncertain_tokens for usage in usages),
        )

    def __add__(self, other: Usage) -> Usage:
        return Usage.total((self, other))

    def since(self, earlier: Usage) -> Usage:
        """What has come after an earlier state of the same call."""
        now, then = self.model_dump(), earlier.model_dump()
        return Usage(**{name: now[name] - then[name] for name in now})


class Spend(NamedTuple):
    """An amount in every unit the ledger keeps: generated tokens, US dollars, FLOPs."""

    tokens: float
    usd: float
    flops: float

    def plus(self, other: Spend) -> Spend:
        return Spend(self.tokens + other.tokens, self.usd + other.usd, self.flops + other.flops)

    def minus(self, other: Spend) -> Spend:
        return Spend(self.tokens - other.tokens, self.usd - other.usd, self.flops - other.flops)

    def within(self, limit: Spend) -> bool:
        return self.tokens <= limit.tokens and self.usd <= limit.usd and self.flops <= limit.flops


NOTHING = Spend(0, 0.0, 0.0)


FINISHER_TOKENS = 32
"""Enough to state an answer, after a text that asks for it."""


class Budget(Noun):
    """The most a job may consume: any of these, at least one.

    `tokens` counts what any model generates for the job; `seconds` is a deadline from its start; `usd` and
    `flops` also count prefill, so that scoring is not free.
    """

    tokens: PositiveInt | None = None
    seconds: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None = None
    usd: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None = None
    flops: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.tokens is self.seconds is self.usd is self.flops is None:
            raise ValueError("a budget names at least one of tokens, seconds, usd, flops")
        return self

    @property
    def reserve(self) -> int:
        """The tokens set aside for forcing an answer out of the best path when the search ends without one."""
        return 0 if self.tokens is None else min(FINISHER_TOKENS, self.tokens // 4)

    @property
    def limit(self) -> Spend:
        """The ledger's side of the budget, infinite where the caller set nothing."""
        return Spend(*(math.inf if x is None else x for x in (self.tokens, self.usd, self.flops)))


class Remaining(Noun):
    """What a strategy may still spend, as of the last outcome it saw; None where the budget sets no limit."""

    tokens: int | None
    seconds: float | None
    usd: float | None
    flops: float | None


class Sampling(Noun):
    """How one continuation is drawn. `max_tokens` is always finite: asking for all that remains would
    serialise a batch. Log-probabilities are those of the model itself, before temperature and top-p."""

    temperature: Annotated[float, Field(ge=0.0, le=10.0)] = 0.8
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_tokens: PositiveInt = 512
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    stop_ids: tuple[NonNegativeInt, ...] = ()
    banned_ids: tuple[NonNegativeInt, ...] = ()
    logprobs: bool = True
    json_schema: str | None = None
    """The JSON Schema, as text, that a whole sample is held to by the engine's grammar; what a model thinks first is
    free. Only whole samples: a grammar begins where a request does."""
    structural_tag: str | None = None
    """The same for texts of which only parts have a form, such as calls of functions: an xgrammar structural tag."""
    thinks: bool = False
    """Whether the model thinks before it answers."""

    @property
    def held(self) -> bool:
        """Whether a grammar holds the sample: it must be drawn whole, and cannot be taken up where it broke off."""
        return self.json_schema is not None or self.structural_tag is not None


class Completion(Noun):
    """What one model call gave back. `text` is what `token_ids` spell, without an end-of-text token."""

    text: str
    token_ids: tuple[int, ...] | None
    logprob: FiniteFloat | None
    self_certainty: FiniteFloat | None
    finish: Finish
    usage: Usage

    @classmethod
    def joined(cls, segments: Sequence[Completion]) -> Completion:
        """One continuation that was bought in several pieces."""
        if len(segments) == 1:
            return segments[0]
        ids = [segment.token_ids for segment in segments]
        logprobs = [segment.logprob for segment in segments]
        return cls(
            text="".join(segment.text for segment in segments),
            token_ids=None if None in ids else tuple(i for part in ids for i in part or ()),
            logprob=None if None in logprobs else math.fsum(value or 0.0 for value in logprobs),
            self_certainty=_mean([(segment.self_certainty, segment.usage.completion_tokens) for segment in segments]),
            finish=segments[-1].finish,
            usage=Usage.total([segment.usage for segment in segments]),
        )

    def since(self, earlier: Completion | None) -> Completion:
        """What has come after an earlier state of the same continuation."""
        if earlier is None:
            return self
        now, then = self.usage.completion_tokens, earlier.usage.completion_tokens
        return Completion(
            text=self.text[len(earlier.text) :],
            token_ids=None if self.token_ids is None else self.token_ids[len(earlier.token_ids or ()) :],
            logprob=None if self.logprob is None or earlier.logprob is None else self.logprob - earlier.logprob,
            self_certainty=_mean([(self.self_certainty, now), (earlier.self_certainty, -then)]),
            finish=self.finish,
            usage=self.usage.since(earlier.usage),
        )


def _mean(parts: Sequence[tuple[float | None, int]]) -> float | None:
    """The mean over all tokens, from the means over some and how many those are."""
    tokens = sum(each for _, each in parts)
    if not tokens or any(value is None and each for value, each in parts):
        return None
    return math.fsum((value or 0.0) * each for value, each in parts) / tokens


class Score(Noun):
    """A verifier's opinion of a path: non-negative, higher is better, comparable within one job only.

    `steps` are its opinions of the path's leading steps, for verifiers that judge step by step: whoever goes on from
    the path need not ask about them again.
    """

    value: Annotated[NonNegativeFloat, Field(allow_inf_nan=False)]
    by: str
    steps: tuple[FiniteFloat, ...] = ()


class Sheet(Noun):
    """A text for a model to read, and what is wanted of it: no token is generated.

    After `before` come `pieces`, each followed by `mark`; the first `skip` pieces were judged already and are only read
    again. What is wanted after each of the others is how likely each token of `ask` comes next; with an empty `ask`,
    what the model's own classes say. `place` says where to look:

    * `mark`: after the mark, or after the piece where there is no mark;
    * `piece`: before the mark, at the token that would predict it;
    * `token`: after every token of a piece and of its mark.

    With `turns`, every piece is a user's turn and its mark the assistant's; `before` is what comes first in the
    conversation.
    """

    before: tuple[Message, ...] | str
    pieces: Annotated[tuple[str, ...], Field(min_length=1)]
    skip: NonNegativeInt = 0
    mark: str = ""
    ask: tuple[str, ...] = ()
    place: Literal["mark", "piece", "token"] = "mark"
    turns: bool = False

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.skip >= len(self.pieces):
            raise ValueError(f"all of {len(self.pieces)} pieces are skipped")
        return self


Looks = tuple[tuple[FiniteFloat, ...], ...]
"""What was seen at each place of one piece: log-probabilities of the tokens asked for, or logits of the classes."""


class Verdicts(Noun):
    """What a model said of a sheet: of each piece that was not skipped, in order. None where a halt came first."""

    pieces: tuple[Looks, ...] | None
    usage: Usage


class Step(Noun):
    """One piece of a path: what the call `key` brought, or a text forced by a strategy, which cost nothing."""

    text: str
    completion: Completion | None = None
    key: str | None = None

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        """As the engine produced them, never re-tokenised; None for a forced text and for chat APIs."""
        return self.completion.token_ids if self.completion else None

    @property
    def tokens(self) -> int:
        return self.completion.usage.completion_tokens if self.completion else 0

    @property
    def mean_logprob(self) -> float | None:
        total, tokens = self.completion.logprob if self.completion else None, self.tokens
        return total / tokens if total is not None and tokens else None

    @property
    def self_certainty(self) -> float | None:
        return self.completion.self_certainty if self.completion else None


class Path(Noun):
    """A start and the steps taken from it. Immutable, so forking is free and forks share their prefix."""

    start: tuple[Message, ...] | tuple[int, ...]
    steps: tuple[Step, ...] = ()
    finish: Finish | None = None
    score: Score | None = None
    judged: tuple[FiniteFloat, ...] = ()
    """What the verifier has said of the leading steps, kept by the paths that go on from here."""

    @classmethod
    def of(cls, problem: Problem) -> Self:
        return cls(start=problem.messages)

    @cached_property
    def text(self) -> str:
        """Everything after the start."""
        return "".join([step.text for step in self.steps])

    @cached_property
    def origin(self) -> str:
        """Names the start alone."""
        return digest(repr(self.start))

    @cached_property
    def fingerprint(self) -> str:
        """Names the start and every step, so that a replayed call can be recognised."""
        return digest("\x01".join([self.origin, *[f"{step.key}\x00{step.text}" for step in self.steps]]))

    @property
    def tokens(self) -> int:
        return sum(step.tokens for step in self.steps)

    @property
    def finished(self) -> bool:
        return self.finish == "stop"

    @property
    def truncated(self) -> bool:
        return self.finish in ("length", "halted", "watched")

    @property
    def newest(self) -> tuple[str | None, str]:
        """The call that made the newest generated step, and the text forced after it."""
        forced = ""
        for step in reversed(self.steps):
            if step.key is not None:
                return step.key, forced
            forced = step.text + forced
        return None, forced

    def append(self, text: str) -> Path:
        """Force `text` as the next step: it is read by the model as if it had written it."""
        return Path(start=self.start, steps=(*self.steps, Step(text=text)), judged=self.judged)

    def extend(self, completion: Completion, key: str) -> Path:
        """The path with `completion`, bought by the call `key`, as its next step."""
        step = Step(text=completion.text, completion=completion, key=key)
        finish = None if completion.finish == "until" else completion.finish
        return Path(start=self.start, steps=(*self.steps, step), finish=finish, judged=self.judged)

    def scored(self, score: Score) -> Path:
        return Path(start=self.start, steps=self.steps, finish=self.finish, score=score, judged=score.steps)


class Vote(Noun):
    """One group of equivalent answers."""

    answer: str
    count: PositiveInt
    weight: NonNegativeFloat


class Answer(Noun):
    """The best a search can say so far.

    `text` is the extracted answer, or the whole sample where nothing could be extracted from it: a finished
    sample is always returned. `support` is the weight of its group for a vote, else its score.
    """

    text: str
    path: Path
    extracted: bool
    support: NonNegativeFloat
    chosen: str
    votes: tuple[Vote, ...] = ()


class Samples(Noun):
    """How the policy's calls ended."""

    finished: NonNegativeInt
    truncated: NonNegativeInt
    failed: NonNegativeInt


class Bill(Noun):
    """What the job cost. `tokens` is all that any model generated, `lost` included: what was in flight when
    a process died or a call failed, charged because it may have been generated. `usd` is None while a model
    has no price: one of `unpriced`."""

    tokens: NonNegativeInt
    lost: NonNegativeInt
    seconds: NonNegativeFloat
    usd: NonNegativeFloat | None
    flops: NonNegativeFloat
    unpriced: tuple[str, ...] = ()


class Call(Noun):
    """One model call as the journal tells it: when it was sent and settled (seconds since the job began),
    which call it continued, what it was granted and what came of it."""

    key: str
    role: Role
    parent: str | None
    granted: NonNegativeInt
    tokens: NonNegativeInt
    outcome: str
    held_at: NonNegativeFloat
    settled_at: NonNegativeFloat


class Selection(Noun):
    """One moment at which a search chose among candidates: the call that brought each of them, its score where it had
    one, and the calls of those that it goes on with. `before` and `after` are the tokens that have to be resident in
    the KV cache for all candidates and for the chosen ones: prompt and shared steps once."""

    candidates: tuple[str, ...]
    scores: tuple[NonNegativeFloat | None, ...]
    kept: tuple[str, ...]
    before: NonNegativeInt
    after: NonNegativeInt


class Trace(Noun):
    """The search as it went: every call, in the order in which they were sent, and every choice.

    `kv_token_steps` is the sum, over decode steps, of the tokens resident in a KV cache that holds what several paths
    share once; continuations that were asked for together are taken to be decoded together.
    """

    calls: tuple[Call, ...]
    selections: tuple[Selection, ...]
    kv_token_steps: NonNegativeInt


class Result(Noun):
    """How a job ended. `usage` is per role; `notes` says what a reader would otherwise have to guess."""

    answer: Answer | None
    stop: Stop
    usage: dict[Role, Usage]
    bill: Bill
    samples: Samples
    confidence: float | None
    notes: tuple[str, ...]
    trace: Trace


class ModelInfo(Noun):
    """What a backend says of its model; enough to price a call and to recognise the weights.

    `parameters` are those active per token, `attention_width` is heads × head size: together with `layers`
    they give FLOPs. `grace` is how long, in seconds, the backend may take to answer a halt.
    """

    name: str
    fingerprint: str
    context: PositiveInt
    parameters: PositiveInt
    layers: NonNegativeInt
    attention_width: NonNegativeInt
    capabilities: Annotated[frozenset[Capability], PlainSerializer(sorted)]
    grace: PositiveFloat = 0.1


def digest(text: str) -> str:
    """A short stable name for some text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def number(text: str) -> int:
    """A stable 63-bit number for some text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
