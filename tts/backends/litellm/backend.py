"""Any provider that LiteLLM speaks to, through its chat API: one streamed request per sample.

The provider's own count is what a call is charged with. Where nobody reports one (the call was cut by a halt or a
watch, broke off, or ended without a usage) the whole hold is charged.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import aclosing
from functools import partial
from itertools import count
from typing import Any

from tts.backends.base import Request
from tts.backends.litellm import provider
from tts.backends.litellm.draft import Draft
from tts.backends.litellm.gate import Gate, pause_after, until
from tts.cost import Price
from tts.errors import BackendError, UsageError
from tts.types import Capability, Completion, Message, ModelInfo, Path, digest

CONTEXT = 32_768
"""Tokens, of a model whose window LiteLLM does not know."""
MOST_STOPS = 4
"""More stop strings are refused by most providers, or dropped without a word."""


class LiteLLMBackend:
    """`model` as LiteLLM names it, `openai/gpt-4o-mini`; its keys come from the environment, as LiteLLM reads them.

    At most `concurrency` calls run at once and `rpm` start per minute, evenly spaced. A call that is refused because
    the provider is busy is sent again, as `Retry-After` says or with growing pauses, for `patience` seconds; while it
    pauses no other call is sent. `timeout` is how many seconds the provider may be silent. `context` is in tokens, for
    models whose window LiteLLM does not know; `parameters` are those active per token, which no provider tells: without
    them one is assumed, and FLOPs mean nothing. `aclose` belongs between two event loops.
    """

    def __init__(
        self,
        model: str,
        *,
        api_base: str | None = None,
        context: int | None = None,
        parameters: int | None = None,
        concurrency: int = 16,
        rpm: int | None = None,
        patience: float = 60.0,
        timeout: float = 600.0,
    ) -> None:
        self._litellm = provider.load()
        self._model, self._api_base = model, api_base
        self._patience, self._timeout = patience, timeout
        self._supported, listed = self._known()
        self._new_gate = partial(Gate, concurrency, rpm)
        self._gate = self._new_gate()
        self.parameters = parameters
        """As given; None where nobody knows, and a budget in FLOPs has no meaning."""
        self.price = _price(listed)
        """Dollars per million tokens in LiteLLM's list, for prompts of usual length; None for a model not in it."""
        abilities: dict[Capability, bool] = {
            "logprobs": "logprobs" in self._supported,
            "continue": bool(listed.get("supports_assistant_prefill")),
            "grammar": bool(listed.get("supports_response_schema")),
            "images": bool(listed.get("supports_vision")),
        }
        self.info = ModelInfo(
            name=model,
            fingerprint=digest(f"{model}\n{api_base or ''}"),
            context=context or listed.get("max_input_tokens") or listed.get("max_tokens") or CONTEXT,
            parameters=parameters or 1,
            layers=0,
            attention_width=0,
            capabilities=frozenset(ability for ability, there in abilities.items() if there),
            # Closing a connection takes a moment.
            grace=1.0,
        )

    def prompt_tokens(self, path: Path) -> int:
        """An estimate a quarter above the count of a tokenizer that is at hand, images taken to be looked at closely;
        settled is what the provider counts."""
        plain = [{"role": each["role"], "content": each["content"]} for each in self._messages(path, detail="high")]
        # Without a model's name, the tokenizer that LiteLLM brings along counts: none has to be found by its name.
        return int(self._litellm.token_counter(model="", messages=plain) * 5 / 4) + 1

    async def generate(self, request: Request) -> Completion:
        asked, draft = self._asked(request), Draft(request)
        try:
            async with until(request.halt):
                await self._draw(asked, draft)
        except TimeoutError:
            return draft.cut("halted")
        return draft.cut("watched") if draft.watched else draft.ended(self._model)

    async def aclose(self) -> None:
        """Close the connections, once no other backend on this event loop has any."""
        self._gate = self._new_gate()
        await provider.leave(self, self._litellm)

    def _known(self) -> tuple[list[str], dict[str, Any]]:
        """The parameters that the provider takes, and what LiteLLM's list says of the model."""
        from openai import OpenAIError

        try:
            name, host, *_ = self._litellm.get_llm_provider(self._model, api_base=self._api_base)
        except OpenAIError as error:
            raise UsageError(
                f"litellm knows no provider for {self._model!r}; name it, as in litellm:openai/gpt-4o-mini"
            ) from error
        supported = self._litellm.get_supported_openai_params(model=name, custom_llm_provider=host) or []
        try:
            return supported, dict(self._litellm.get_model_info(model=name, custom_llm_provider=host))
        except Exception:  # noqa: BLE001  what it raises for a model that is not in the list
            return supported, {}

    def _messages(self, path: Path, **looks: str) -> list[dict[str, Any]]:
        """The conversation, and what is to be continued as the beginning of the assistant's turn."""
        messages: list[dict[str, Any]] = []
        for each in path.start:
            if isinstance(each, int):
                raise UsageError(f"{self._model} reads messages, not token ids; use a local model")
            if each.role in ("tool", "tools") or each.calls:
                raise UsageError(f"{self._model} is not told of functions here; calls of them need an SGLang server")
            messages.append({"role": each.role, "content": _content(each, looks)})
        if path.steps and "continue" not in self.info.capabilities:
            raise UsageError(
                f"{self._model} cannot continue a text; use a local model, or a strategy that samples whole"
            )
        return [*messages, {"role": "assistant", "content": path.text, "prefix": True}] if path.steps else messages

    def _asked(self, request: Request) -> dict[str, Any]:
        """The request in the words of the chat API."""
        sampling = request.sampling
        self._check(request)
        optional = {
            "top_p": sampling.top_p if sampling.top_p < 1 else None,
            "stop": list(sampling.stop) or None,
            "seed": request.seed % 2**31 if "seed" in self._supported else None,
            "logprobs": True if sampling.logprobs and "logprobs" in self._supported else None,
            "stream_options": {"include_usage": True} if "stream_options" in self._supported else None,
            "api_base": self._api_base,
            "response_format": _response_format(sampling.json_schema),
        }
        return {
            "model": self._model,
            "messages": self._messages(request.path),
            "max_tokens": request.max_tokens,
            "temperature": sampling.temperature,
            "stream": True,
            "timeout": self._timeout,
            "num_retries": 0,
            "max_retries": 0,
            **{name: value for name, value in optional.items() if value is not None},
        }

    def _check(self, request: Request) -> None:
        """Refuse what would be dropped without a word."""
        sampling = request.sampling
        if request.until:
            # It keeps back the string at which it stops, and does not tell it from the model's own end.
            raise UsageError(f"{self._model} does not say where a step ends; searches over steps need a local model")
        if sampling.stop_ids or sampling.banned_ids:
            raise UsageError(f"{self._model} hides its tokens; it takes no stop_ids and banned_ids")
        most = MOST_STOPS if "stop" in self._supported else 0
        if len(sampling.stop) > most:
            raise UsageError(f"{self._model} takes at most {most} stop strings, not {len(sampling.stop)}")

    async def _draw(self, asked: dict[str, Any], draft: Draft) -> None:
        """Send the request, again and again while the provider is busy and patience lasts."""
        async with self._gate.places:
            began = math.inf
            for attempt in count():
                await self._gate.turn()
                error = await self._attempt(asked, draft)
                if error is None:
                    return
                pause = pause_after(error, attempt) if provider.is_busy(error) and not draft.answered else math.inf
                began = min(began, time.monotonic())
                if time.monotonic() + pause > began + self._patience:
                    raise self._failure(error, asked, draft)
                self._gate.pause(pause)

    async def _attempt(self, asked: dict[str, Any], draft: Draft) -> Exception | None:
        """Send the request once; what went wrong, if anything did."""
        from openai import OpenAIError

        draft.sent = True
        try:
            stream = await self._litellm.acompletion(**asked, shared_session=provider.session_of(self))
            async with aclosing(stream):
                await draft.fill(stream)
        except OpenAIError as error:
            draft.sent = draft.answered
            # What fails as a stream is wrapped in an error with a status of LiteLLM's own making.
            cause: Exception = getattr(error, "original_exception", None) or error
            return cause
        return None

    def _failure(self, error: Exception, asked: dict[str, Any], draft: Draft) -> BackendError:
        usage = None if draft.answered else provider.known_cost(error)
        return BackendError(provider.in_words(error, self._litellm, asked), usage=usage)


def _content(message: Message, looks: Mapping[str, str]) -> str | list[dict[str, Any]]:
    """A message as chat APIs take it: in parts only where it has images."""
    if not message.images:
        return message.content
    parts: list[dict[str, Any]] = []
    at = 0
    for image in message.images:
        parts += _said(message.content[at : image.at])
        parts.append({"type": "image_url", "image_url": {"url": image.url, **looks}})
        at = image.at
    return [*parts, *_said(message.content[at:])]


def _said(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text else []


def _response_format(schema: str | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": json.loads(schema)}}


def _price(listed: dict[str, Any]) -> Price | None:
    prompt, completion = listed.get("input_cost_per_token"), listed.get("output_cost_per_token")
    if prompt is None or completion is None:
        return None
    cached = listed.get("cache_read_input_token_cost")
    cheap = None if cached is None else min(cached, prompt) * 1e6
    return Price(prompt=prompt * 1e6, completion=completion * 1e6, cached=cheap)
