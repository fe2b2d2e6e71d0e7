"""LiteLLM itself: loaded in silence, the connections of those who use it, and what its errors say and cost."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tts.errors import UsageError
from tts.types import Usage

if TYPE_CHECKING:
    import aiohttp

_BUSY = (429, 503)
"""What a provider answers that has generated nothing and wants to be asked again later."""
_LONGEST_MESSAGE = 200
_SECRET = re.compile(r"\b(?:sk|pk|gsk|xai)-[\w*.-]+|\bAIza[\w-]+|(?i:\bbearer\s+|\bkey=)[^\s&]+")
_SECRET_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD")

_sessions: dict[asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, set[object]]] = {}
"""LiteLLM keeps its clients by event loop and key, whoever asked first, and closes few of them. So all backends of a
loop share the connections beneath, and the last one closes them."""


def load() -> Any:
    """LiteLLM, silent and offline. It takes seconds to import, so nobody does who needs no provider."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it fetches its list of models
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")  # else it reads `.env` files
    try:
        import litellm
    except ModuleNotFoundError as error:
        raise UsageError(f"the litellm backend needs {error.name}; pip install 'test-time-scaling[litellm]'") from error
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.disable_hf_tokenizer_download = True
    litellm.disable_streaming_logging = True
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    return litellm


def session_of(user: object) -> aiohttp.ClientSession:
    """The connections of this event loop, which `user` will `leave`."""
    import aiohttp

    loop = asyncio.get_running_loop()
    if loop not in _sessions:
        # Backends limit themselves; as everywhere in LiteLLM, a proxy may be named in the environment.
        _sessions[loop] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=True), set()
    session, users = _sessions[loop]
    users.add(user)
    return session


async def leave(user: object, litellm: Any) -> None:
    """Close the connections of this event loop if `user` was the last to use them."""
    loop = asyncio.get_running_loop()
    session, users = _sessions.get(loop, (None, set()))
    users.discard(user)
    if session is not None and not users:
        del _sessions[loop]
        litellm.in_memory_llm_clients_cache.flush_cache()
        # The one client that is not kept there has connections of its own, and makes new ones when asked again.
        await litellm.module_level_aclient.client._transport.aclose()
        await session.close()


def is_busy(error: Exception) -> bool:
    """Whether the provider wants to be asked again later."""
    return _status(error) in _BUSY


def known_cost(error: Exception) -> Usage | None:
    """What a call cost that was not answered: nothing where it was refused or never left, else nobody knows."""
    status = _status(error)
    # A time-out is given the status 408 by LiteLLM, whatever went on behind it.
    refused = is_busy(error) or (400 <= status < 500 and status != 408)
    return Usage.none() if refused or _is(error, "ConnectError") or _lacks_key(error) else None


def in_words(error: Exception, litellm: Any, asked: dict[str, Any]) -> str:
    """What went wrong with the request `asked`, in one line without a key."""
    model, api_base = asked["model"], asked.get("api_base")
    if _is(error, "ConnectError"):
        where = urlsplit(api_base).netloc.rpartition("@")[2] if api_base else "its provider"
        return f"{model}: cannot reach {where}"
    if _is(error, "AuthenticationError") or _lacks_key(error):
        missing = litellm.validate_environment(model)["missing_keys"]
        return f"{model}: no valid key; " + (
            f"set {' or '.join(missing)}" if missing else "the one there is was refused"
        )
    if _is(error, "Timeout"):
        return f"{model}: silent for {asked['timeout']:g} s"
    # LiteLLM puts the names of its exceptions before what the provider said, and sometimes its stack behind.
    message = redacted(" ".join(str(getattr(error, "message", error)).split()).partition(" Traceback ")[0])
    message = re.sub(r"litellm\.\w+: ", "", message).rpartition("Exception - ")[2]
    return f"{model}: {message[:_LONGEST_MESSAGE]}"


def redacted(text: str) -> str:
    """The text without this environment's secrets, and without what looks like somebody's."""
    for name, value in os.environ.items():
        if name.upper().endswith(_SECRET_NAMES) and len(value) >= 8:
            text = text.replace(value, "…")
    return _SECRET.sub("…", text)


def _status(error: Exception) -> int:
    return getattr(error, "status_code", None) or 0


def _lacks_key(error: Exception) -> bool:
    """Whether the client had no key to send the call with: the one error of its own that is of no special kind."""
    from openai import OpenAIError

    return any(type(each) is OpenAIError for each in _causes(error))


def _is(error: Exception, name: str) -> bool:
    return any(type(each).__name__ == name for each in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
