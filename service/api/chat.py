"""Chat completions as OpenAI's API has them: every parameter is honoured, forwarded or refused, and none is dropped."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from service.api.messages import CalledTool, ChatMessage, Tool, ToolChoice, check_calls, toolbox
from service.api.schemas import Asked, Choice, Drawn, Limits, Manner, Metadata, Question, Text, Word
from tts.answers.calls import grammar
from tts.errors import unknown

INERT: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
}
"""Parameters that are taken as long as they ask for what happens anyway."""
REFUSED: dict[str, str] = {
    "frequency_penalty": "samples are drawn as the model gives them; leave it at 0",
    "presence_penalty": "samples are drawn as the model gives them; leave it at 0",
    "logprobs": "the answer was chosen among many samples; their sums are in the job's trace",
    "top_logprobs": "the answer was chosen among many samples; their sums are in the job's trace",
    "logit_bias": "tokens cannot be favoured here",
    "modalities": "answers are text",
    "audio": "answers are text",
    "service_tier": "there is one tier; your limits are at /v1/budget",
    "prediction": "nothing is predicted",
    "reasoning_effort": "choose a mode of the model instead: NAME:MODE; and the effort is the budget",
    "verbosity": "say it in a message",
    "web_search_options": "nothing is searched",
    "functions": "this is the old name of tools",
    "function_call": "this is the old name of tool_choice",
    "prompt_cache_key": "conversations find their prefixes by themselves",
    "prompt_cache_retention": "conversations find their prefixes by themselves",
    "safety_identifier": "use user or metadata",
    "moderation": "nothing is moderated here",
}


_OF_SCHEMA = {"name", "description", "strict", "schema"}


class StreamOptions(Asked):
    """What a stream tells beside."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ResponseFormat(Asked):
    """Text, or JSON that an engine's grammar holds to a schema, after whatever is thought first."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None

    def schema_text(self) -> str | None:
        if self.type != "json_schema":
            if self.json_schema is not None:
                raise ValueError(f"response_format.json_schema belongs to the type json_schema, and not to {self.type}")
            return None if self.type == "text" else json.dumps({"type": "object"})
        given = self.json_schema or {}
        if strange := sorted(given.keys() - _OF_SCHEMA):
            raise ValueError(str(unknown("part of response_format.json_schema", strange[0], sorted(_OF_SCHEMA))))
        if not isinstance(given.get("schema"), dict):
            raise ValueError("response_format.json_schema.schema is missing")
        try:
            return json.dumps(given["schema"], allow_nan=False)
        except (ValueError, RecursionError) as error:
            raise ValueError("response_format.json_schema.schema cannot be written as JSON") from error


class ChatRequest(Asked):
    """OpenAI's parameters, and ours: budget, strategy, verifier, answer, instruction, step_end, progress."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "default:self_consistency",
                    "messages": [{"role": "user", "content": "What is 12 * 17?"}],
                    "answer": "maths",
                    "budget": {"tokens": 2000},
                }
            ]
        }
    )

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=1_000)]
    model: Annotated[str, Field(max_length=200)] = ""
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Text | Annotated[tuple[Text, ...], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[tuple[Tool, ...], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    user: Annotated[str, Field(max_length=512)] | None = None

    budget: Limits | None = Field(default=None, description="ours: the most that may be spent")
    strategy: Choice | None = Field(default=None, description="ours: instead of naming it after the model")
    verifier: Choice | None = Field(default=None, description="ours")
    answer: Word | dict[str, Any] | None = Field(default=None, description="ours: the kind of answer, `text` if none")
    instruction: Annotated[str, Field(max_length=10_000)] | None = Field(default=None, description="ours")
    step_end: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(default=None, description="ours")
    progress: bool = Field(
        default=False, description="ours: what the search is doing, as reasoning_content of a stream"
    )

    @model_validator(mode="before")
    @classmethod
    def _refuses_what_it_cannot_do(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        taken = dict(given)
        for name in REFUSED.keys() & given.keys():
            if given[name] is not None and not any(given[name] == each for each in INERT.get(name, ())):
                raise _refusal(cls, name)
            del taken[name]
        return taken

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens is the old name of max_completion_tokens: give one of them")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options without stream")
        check_calls(self.messages)
        self._check_tools()
        self.held()
        return self

    def _check_tools(self) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two of the tools have one name")
        if self.tool_choice not in (None, "none", "auto") and not names:
            raise ValueError("tool_choice without tools")
        if isinstance(self.tool_choice, ToolChoice) and self.tool_choice.function.name not in names:
            raise ValueError(str(unknown("tool", self.tool_choice.function.name, names)))
        if self._callable and (self.answer or (self.response_format and self.response_format.type != "text")):
            raise ValueError("tools together with response_format or answer: what is called is the answer")

    @property
    def _callable(self) -> tuple[Tool, ...]:
        """The tools that may be called."""
        return () if self.tool_choice == "none" else self.tools or ()

    def held(self) -> dict[str, str]:
        """What an engine's grammar holds every sample to, as `Sampling` has it."""
        schema = self.response_format.schema_text() if self.response_format else None
        if schema is not None:
            return {"json_schema": schema}
        if not self._callable:
            return {}
        chosen = self.tool_choice.function.name if isinstance(self.tool_choice, ToolChoice) else None
        functions = [tool.function for tool in self._callable if chosen in (None, tool.function.name)]
        tag = grammar(
            [(each.name, each.parameters or {"type": "object"}) for each in functions],
            required=self.tool_choice not in (None, "auto"),
            parallel=self.parallel_tool_calls is not False and chosen is None,
        )
        return {"structural_tag": tag}

    def question(self) -> Question:
        """The conversation as a problem."""
        kind = self.answer or ("json" if self.response_format and self.held() else None)
        plain = "" if self.instruction is None and self.answer is None else self.instruction
        turns = tuple(message.message() for message in self.messages)
        if self._callable:
            return Question((toolbox(self._callable), *turns), "calls", plain)
        return Question(turns, kind, plain)

    def manner(self) -> Manner:
        """How it is to be answered."""
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        noted = dict(self.metadata or {}) | ({"user": self.user} if self.user else {})
        return Manner(
            strategy=self.strategy,
            verifier=self.verifier,
            budget=self.budget,
            sampling=Drawn(
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=self.max_completion_tokens or self.max_tokens,
                stop=stop,
            ),
            step_end=self.step_end,
            seed=self.seed or 0,
            store=self.store is not False,
            metadata=noted,
        )


def _refusal(model: type[BaseModel], name: str) -> ValidationError:
    """Why a parameter is not taken, at its own place in the body."""
    why = PydanticCustomError("refused", "{name} is refused: {why}", {"name": name, "why": REFUSED[name]})
    return ValidationError.from_exception_data(model.__name__, [{"type": why, "loc": (name,), "input": None}])


class Said(BaseModel):
    """What the assistant says, and calls. Without an answer there is a refusal that says why."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    tool_calls: list[CalledTool] | None = None


class ChatChoice(BaseModel):
    """One of the distinct answers, the best first."""

    index: int
    message: Said
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: None = None


class ChatUsage(BaseModel):
    """The whole spend: every sample, judge and finisher, lost ones included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class Completed(BaseModel):
    """A chat completion, and what is behind it."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    tts: dict[str, Any] = Field(description="ours: job, answer, votes, bill, notes")


class Model(BaseModel):
    """One model."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "tts"


class Models(BaseModel):
    """What there is to choose from."""

    object: Literal["list"] = "list"
    data: list[Model]
