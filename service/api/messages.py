"""The turns of a chat, as OpenAI's API has them, and what they are to us."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from service.api.problems import Fault
from service.api.schemas import Asked, Word
from tts.answers import ToolCall
from tts.cost import one_line
from tts.types import Image, Message

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]

Long = Annotated[str, Field(max_length=500_000)]


class ImageUrl(Asked):
    """A picture, as a `data:` URL: nobody fetches anything."""

    url: Annotated[str, Field(min_length=1)]
    detail: Literal["auto"] | None = None


class Piece(Asked):
    """A part of a message: text or a picture."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None

    @model_validator(mode="after")
    def _is_what_it_says(self) -> Self:
        if (self.text is None) == (self.type == "text") or (self.image_url is None) == (self.type == "image_url"):
            raise ValueError(f"a part of type {self.type} has {self.type}, and nothing else")
        return self


class Called(Asked):
    """The function of a call, and its arguments as the text of a JSON object."""

    name: Name
    arguments: Long


class CalledTool(Asked):
    """A call that an assistant's turn made."""

    id: Word
    type: Literal["function"] = "function"
    function: Called

    def call(self) -> ToolCall:
        try:
            arguments = json.loads(self.function.arguments)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise ValueError(f"the arguments of {self.function.name} are not the text of a JSON object")
        return ToolCall(name=self.function.name, arguments=self.function.arguments)


class ChatMessage(Asked):
    """One turn. `developer` is `system` under another name; `tool` is what a function that was called gave back."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        Annotated[str, Field(max_length=500_000)]
        | Annotated[tuple[Piece, ...], Field(min_length=1, max_length=100)]
        | None
    ) = None
    name: Word | None = None
    refusal: None = None
    tool_calls: Annotated[tuple[CalledTool, ...], Field(max_length=128)] | None = None
    tool_call_id: Word | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.name is not None:
            raise ValueError("names of speakers are not known to models here: put it into the content")
        if self.tool_call_id is None and self.role == "tool":
            raise ValueError("tool_call_id is missing: a result of a tool names the call that it is of")
        if self.tool_call_id is not None and self.role != "tool":
            raise ValueError("tool_call_id belongs to the role tool, and to no other")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls belong to the role assistant, and to no other")
        if not self.content and not self.tool_calls and self.role != "tool":
            raise ValueError("content is missing")
        self.message()
        return self

    def message(self) -> Message:
        """What a model is told."""
        role: Any = "system" if self.role == "developer" else self.role
        pieces = self.content if isinstance(self.content, tuple) else (Piece(type="text", text=self.content or ""),)
        text, images = "", []
        for piece in pieces:
            text += piece.text or ""
            if piece.image_url is not None:
                images.append(_image(self.role, len(text), piece.image_url.url))
        calls = tuple(each.call() for each in self.tool_calls or ())
        return Message(role=role, content=text, calls=calls, images=tuple(images))


def _image(role: str, at: int, url: str) -> Image:
    if role != "user":
        raise Fault(400, "invalid", f"images are what users send, and not the role {role}")
    if not url.startswith("data:"):
        raise Fault(400, "invalid", "no addresses are fetched: send an image as data:image/png;base64,…")
    try:
        return Image(at=at, url=url)
    except ValidationError as error:
        raise Fault(400, "invalid", f"this is no image: {one_line(error)}") from error


def check_calls(messages: Sequence[ChatMessage]) -> None:
    """Refuse results of functions that nobody called."""
    known: set[str] = set()
    for message in messages:
        known.update(each.id for each in message.tool_calls or ())
        if message.tool_call_id is not None and message.tool_call_id not in known:
            raise ValueError(f"no tool call before it has the id {message.tool_call_id!r}")


class Function(Asked):
    """A function that the model may call. Its arguments are always held to its schema, `strict` or not."""

    name: Name
    description: Annotated[str, Field(max_length=20_000)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _can_be_told(self) -> Self:
        try:
            json.dumps(self.parameters, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the parameters of {self.name} cannot be written as JSON") from error
        return self


class Tool(Asked):
    """A tool. Only functions are known."""

    type: Literal["function"]
    function: Function


class Named(Asked):
    """A function by its name."""

    name: Name


class ToolChoice(Asked):
    """The one function that is to be called."""

    type: Literal["function"]
    function: Named


def toolbox(tools: Sequence[Tool]) -> Message:
    """The functions as a model is told of them."""
    told = [tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in tools]
    return Message(role="tools", content=json.dumps(told, ensure_ascii=False))
