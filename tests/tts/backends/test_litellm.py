"""Any provider: against a server on this machine that speaks as providers do, and fails as they do."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

web = pytest.importorskip("aiohttp.web", reason="aiohttp, of the extra litellm, is not installed")
from aiohttp import ClientSession  # noqa: E402

# To import it is left to the backend, which sees to it that nothing is fetched.
if not find_spec("litellm"):
    pytest.skip("the litellm backend's extra is not installed", allow_module_level=True)

from tts.backends.base import Request  # noqa: E402
from tts.backends.litellm.backend import CONTEXT, LiteLLMBackend  # noqa: E402
from tts.backends.litellm.gate import pause_after  # noqa: E402
from tts.backends.litellm.provider import redacted  # noqa: E402
from tts.errors import BackendError, UsageError  # noqa: E402
from tts.halt import Halt  # noqa: E402
from tts.types import Completion, Image, Message, Path, Sampling, Usage  # noqa: E402

# LiteLLM warns about its own insides.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(litellm|pydantic)")

MODEL = "openai/some-model"
KEY = "secret-of-this-test"
START = Path(start=(Message(role="user", content="What is 6 times 7?"),))
COUNTED = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}

Answer = Callable[[Any], Awaitable[Any]]


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("DEEPSEEK_API_KEY", KEY)


@dataclass
class Provider:
    """What was asked of it, and when; each call has the next answer, and the last one is repeated."""

    answers: tuple[Answer, ...]
    base: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: Any) -> Any:
        number = len(self.bodies)
        self.times.append(time.monotonic())
        self.bodies.append(await request.json())
        self.asked.set()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self.answers[min(number, len(self.answers) - 1)](request)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        finally:
            self.under_way -= 1


@asynccontextmanager
async def provider(*answers: Answer) -> AsyncIterator[Provider]:
    served = Provider(answers)
    app = web.Application()
    app.router.add_post("/{path:.*}", served.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.base = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield served
    finally:
        await runner.cleanup()


@asynccontextmanager
async def backend_of(served: Provider, model: str = MODEL, **options: Any) -> AsyncIterator[LiteLLMBackend]:
    backend = LiteLLMBackend(model, api_base=served.base, **options)
    try:
        yield backend
    finally:
        await backend.aclose()


def chunk(content: str = "", finish: str | None = None, logprob: float | None = None) -> dict[str, Any]:
    logprobs = None if logprob is None else {"content": [{"token": content, "logprob": logprob, "top_logprobs": []}]}
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish, "logprobs": logprobs}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "some-model", "choices": [choice]}


def says(
    *words: str,
    finish: str | None = "stop",
    usage: dict[str, Any] | None = COUNTED,
    logprob: float | None = -0.5,
    silence: float = 0.0,
    drops: bool = False,
) -> Answer:
    """An answer of the words, `silence` seconds after them its end, and then the provider's count."""

    async def answer(request: Any) -> Any:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chunks = [chunk(word, logprob=logprob) for word in words]
        for number, each in enumerate([*chunks, *([chunk(finish=finish)] if finish else [])]):
            await asyncio.sleep(silence if number == len(words) else 0)
            await response.write(f"data: {json.dumps(each)}\n\n".encode())
        if drops:
            request.transport.abort()
            return response
        if usage is not None:
            await response.write(f"data: {json.dumps({**chunk(), 'choices': [], 'usage': usage})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n" if finish else b"")
        await response.write_eof()
        return response

    return answer


def refuses(status: int, message: str = "no", **headers: str) -> Answer:
    async def answer(request: Any) -> Any:
        return web.json_response(
            {"error": {"message": message, "type": "x", "code": None}}, status=status, headers=headers
        )

    return answer


def request(path: Path = START, max_tokens: int = 32, halt: Halt | None = None, **fields: Any) -> Request:
    sampling = fields.pop("sampling", Sampling())
    return Request(
        id="job:0;", path=path, prompt_tokens=20, max_tokens=max_tokens, sampling=sampling, seed=2**40 + 5,
        halt=halt or Halt(), **fields,
    )  # fmt: skip


def answered(answer: Answer, asked: Request | None = None, **options: Any) -> tuple[Completion, dict[str, Any]]:
    """What the backend makes of an answer, and what it had asked for."""

    async def main() -> tuple[Completion, dict[str, Any]]:
        async with provider(answer) as served, backend_of(served, **options) as backend:
            return await backend.generate(asked or request()), served.bodies[0]

    return asyncio.run(main())


def failed(*answers: Answer, **options: Any) -> BackendError:
    async def main() -> BackendError:
        async with provider(*answers) as served, backend_of(served, **options) as backend:
            with pytest.raises(BackendError) as caught:
                await backend.generate(request())
            return caught.value

    return asyncio.run(main())


def test_importing_the_backend_does_not_import_litellm() -> None:
    code = "import sys, tts.backends.litellm; sys.exit('litellm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_sample_is_one_chat_request_charged_with_what_the_provider_counted() -> None:
    sampling = Sampling(temperature=0.3, top_p=0.9, stop=("END",))
    completion, body = answered(says("42", " of course"), request(sampling=sampling))
    assert (completion.text, completion.finish, completion.token_ids) == ("42 of course", "stop", None)
    assert completion.logprob == pytest.approx(-1.0)
    used = completion.usage
    assert (used.prompt_tokens, used.cached_tokens, used.completion_tokens) == (9, 4, 2)
    assert used.seconds > 0
    assert body == {
        "model": "some-model",
        "messages": [{"role": "user", "content": "What is 6 times 7?"}],
        "max_tokens": 32,
        "temperature": 0.3,
        "top_p": 0.9,
        "stop": ["END"],
        "seed": 5,
        "logprobs": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_images_are_sent_where_they_stand_in_the_text() -> None:
    url = "data:image/png;base64,AAAA"
    message = Message(role="user", content="What is this?", images=(Image(at=0, url=url), Image(at=8, url=url)))
    _, body = answered(says("A cat."), request(Path(start=(message,))))
    image = {"type": "image_url", "image_url": {"url": url}}
    text = [{"type": "text", "text": words} for words in ("What is ", "this?")]
    assert body["messages"] == [{"role": "user", "content": [image, text[0], image, text[1]]}]
    backend = LiteLLMBackend(MODEL)
    plain = Path(start=(Message(role="user", content="What is this?"),))
    assert backend.prompt_tokens(Path(start=(message,))) > backend.prompt_tokens(plain) + 400


def test_an_answer_that_used_up_its_grant_says_so() -> None:
    assert answered(says("so", " long", finish="length"))[0].finish == "length"


def test_log_probabilities_are_asked_for_only_where_they_are_wanted() -> None:
    completion, body = answered(says("42", logprob=None), request(sampling=Sampling(logprobs=False)))
    assert "logprobs" not in body
    assert completion.logprob is None


def test_a_provider_that_withholds_log_probabilities_leaves_none() -> None:
    assert answered(says("42", logprob=None))[0].logprob is None


def test_hidden_reasoning_is_charged_and_leaves_no_log_probability() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 28}}
    completion, _ = answered(says("42", usage=usage))
    assert completion.usage.completion_tokens == 30
    assert completion.logprob is None


def test_an_answer_without_a_usage_is_not_estimated_but_charged_whole() -> None:
    error = failed(says("42", usage=None))
    assert str(error) == f"{MODEL}: the answer came without a usage"
    assert error.usage is None


@pytest.mark.parametrize("drops", [True, False])
def test_an_answer_that_breaks_off_is_none_even_with_a_usage(drops: bool) -> None:
    error = failed(says("42", finish=None, drops=drops))
    assert error.usage is None


def test_an_answer_that_was_filtered_is_a_failure_that_costs_what_was_counted() -> None:
    error = failed(says("4", finish="content_filter"))
    assert "content_filter" in str(error)
    assert error.usage is not None
    assert error.usage.completion_tokens == 2


def test_a_usage_that_cannot_be_is_a_failure_charged_whole() -> None:
    assert failed(says("42", usage={"prompt_tokens": -5, "completion_tokens": 2})).usage is None


def test_a_halt_brings_what_came_and_is_charged_whole() -> None:
    async def main() -> tuple[Completion, float]:
        async with provider(says("4", silence=30)) as served, backend_of(served) as backend:
            halt, came = Halt(), asyncio.Event()

            def watch(completion: Completion) -> bool:
                came.set()
                return False

            task = asyncio.create_task(backend.generate(request(halt=halt, watch=watch)))
            await asyncio.wait_for(came.wait(), 20)
            began = time.monotonic()
            halt.set("deadline")
            completion = await task
            seconds = time.monotonic() - began
            await asyncio.wait_for(served.left.wait(), 2)
            return completion, seconds

    completion, seconds = asyncio.run(main())
    assert (completion.text, completion.finish, completion.logprob) == ("4", "halted", None)
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (20, 32)
    assert seconds < 0.5


def test_a_call_that_was_not_sent_when_the_halt_came_costs_nothing() -> None:
    async def main() -> tuple[Completion, int]:
        async with provider(says("4", silence=30)) as served, backend_of(served, concurrency=1) as backend:
            other, halt = Halt(), Halt()
            first = asyncio.create_task(backend.generate(request(halt=other)))
            second = asyncio.create_task(backend.generate(request(halt=halt)))
            await asyncio.wait_for(served.asked.wait(), 20)
            halt.set("deadline")
            completion = await second
            other.set("deadline")
            await first
            return completion, len(served.bodies)

    completion, sent = asyncio.run(main())
    assert (completion.text, completion.finish, completion.usage.completion_tokens, sent) == ("", "halted", 0, 1)
    assert completion.usage.prompt_tokens == 0


def test_a_cancelled_call_is_cancelled() -> None:
    async def main() -> None:
        async with provider(says("4", silence=30)) as served, backend_of(served) as backend:
            task = asyncio.create_task(backend.generate(request()))
            await asyncio.wait_for(served.asked.wait(), 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_a_watch_that_has_seen_enough_ends_the_answer() -> None:
    seen = request(watch=lambda completion: "7" in completion.text)
    completion, _ = answered(says("6", "7", "8", silence=30), seen)
    assert (completion.text, completion.finish, completion.usage.completion_tokens) == ("67", "watched", 32)


def test_a_call_to_a_busy_provider_is_sent_again_and_others_wait_with_it() -> None:
    async def main() -> list[float]:
        busy = refuses(429, **{"Retry-After": "1"})
        async with provider(busy, says("42")) as served, backend_of(served) as backend:
            first = asyncio.create_task(backend.generate(request()))
            await asyncio.wait_for(served.asked.wait(), 20)
            await asyncio.sleep(0.2)
            completions = await asyncio.gather(first, backend.generate(request()))
            assert [each.text for each in completions] == ["42", "42"]
            return served.times

    refused, *sent = asyncio.run(main())
    assert len(sent) == 2
    assert all(each - refused >= 0.9 for each in sent)


@pytest.mark.parametrize("status", [429, 503])
def test_a_provider_that_stays_busy_costs_patience_and_nothing_else(status: int) -> None:
    error = failed(refuses(status, "come back later", **{"Retry-After": "0.1"}), patience=0.3)
    assert error.usage == Usage.none()
    assert str(error) == f"{MODEL}: come back later"


def test_a_provider_that_asks_for_more_than_patience_is_not_waited_for() -> None:
    began = time.monotonic()
    assert failed(refuses(429, **{"Retry-After": "3600"})).usage == Usage.none()
    assert time.monotonic() - began < 2


def test_a_halt_ends_the_wait_for_a_busy_provider_at_no_cost() -> None:
    async def main() -> Completion:
        async with provider(refuses(429, **{"Retry-After": "30"})) as served, backend_of(served) as backend:
            halt = Halt()
            task = asyncio.create_task(backend.generate(request(halt=halt)))
            await asyncio.wait_for(served.asked.wait(), 20)
            await asyncio.sleep(0.2)
            halt.set("cancelled")
            return await task

    completion = asyncio.run(main())
    assert (completion.finish, completion.usage.completion_tokens) == ("halted", 0)


@dataclass
class Refusal:
    litellm_response_headers: dict[str, str]
    response: None = None


def test_retry_after_is_a_number_or_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert pause_after(Refusal({"retry-after": "7"}), 0) == 7
    assert pause_after(Refusal({"retry-after": soon}), 0) == pytest.approx(20, abs=2)
    assert [pause_after(Refusal({}), attempt) for attempt in (0, 3, 9)] == [1, 8, 30]


def test_no_more_calls_are_under_way_than_allowed() -> None:
    async def main() -> int:
        async with provider(says("42", silence=0.05)) as served, backend_of(served, concurrency=2) as backend:
            await asyncio.gather(*(backend.generate(request()) for _ in range(6)))
            return served.most_under_way

    assert asyncio.run(main()) == 2


def test_no_more_calls_start_in_a_minute_than_allowed() -> None:
    async def main() -> list[float]:
        async with provider(says("42")) as served, backend_of(served, rpm=300) as backend:
            await asyncio.gather(*(backend.generate(request()) for _ in range(3)))
            return served.times

    first, _, last = asyncio.run(main())
    assert last - first >= 0.2


def test_a_refusal_costs_nothing_and_a_breakdown_nobody_knows_what() -> None:
    assert failed(refuses(400)).usage == Usage.none()
    assert failed(refuses(404)).usage == Usage.none()
    assert failed(refuses(500)).usage is None


def test_a_breakdown_is_not_repaired_behind_the_ledger() -> None:
    async def main() -> int:
        async with provider(refuses(500), says("42")) as served, backend_of(served) as backend:
            with pytest.raises(BackendError):
                await backend.generate(request())
            return len(served.bodies)

    assert asyncio.run(main()) == 1


def test_a_silent_provider_costs_nobody_knows_what() -> None:
    error = failed(says("4", silence=30), timeout=0.3)
    assert error.usage is None
    assert "\n" not in str(error)

    async def mute(request: Any) -> Any:
        await asyncio.sleep(30)

    error = failed(mute, timeout=0.3)
    assert str(error) == f"{MODEL}: silent for 0.3 s"
    assert error.usage is None


def test_no_message_holds_a_key_or_a_second_line() -> None:
    error = failed(refuses(400, f"bad request\nwith {KEY} and sk-proj-abc***xyz " + "and more " * 99))
    assert str(error).startswith(f"{MODEL}: bad request with … and … and more")
    assert len(str(error)) < 250
    assert redacted("Authorization: Bearer abc.def and ?key=AIzaSyX&alt=sse") == "Authorization: … and ?…&alt=sse"


def test_a_host_that_is_not_there_is_named() -> None:
    async def main() -> BackendError:
        backend = LiteLLMBackend(MODEL, api_base="http://127.0.0.1:9/v1")
        with pytest.raises(BackendError) as caught:
            await backend.generate(request())
        await backend.aclose()
        return caught.value

    error = asyncio.run(main())
    assert str(error) == f"{MODEL}: cannot reach 127.0.0.1:9"
    assert error.usage == Usage.none()


def test_a_missing_key_is_named_and_a_refused_one_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(failed(refuses(401, f"wrong key {KEY}"))) == f"{MODEL}: no valid key; the one there is was refused"
    monkeypatch.delenv("OPENAI_API_KEY")
    error = failed(says("42"))
    assert str(error) == f"{MODEL}: no valid key; set OPENAI_API_KEY"
    assert error.usage == Usage.none()


def test_a_model_of_no_known_provider_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="litellm knows no provider for 'nonsense'; name it, as in litellm:openai/"):
        LiteLLMBackend("nonsense")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request(START.append("so")), "cannot continue a text"),
        (request(Path(start=(1, 2))), "not token ids"),
        (request(until=("\n\n",)), "where a step ends"),
        (request(sampling=Sampling(stop_ids=(1,))), "takes no stop_ids"),
        (request(Path(start=(Message(role="tools", content="[]"),))), "need an SGLang server"),
        (request(sampling=Sampling(stop=("1", "2", "3", "4", "5"))), "at most 4 stop strings, not 5"),
    ],
)
def test_what_a_chat_api_cannot_do_is_refused_before_anything_is_sent(asked: Request, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        asyncio.run(LiteLLMBackend(MODEL).generate(asked))


def test_what_a_model_can_do_costs_and_holds_is_what_litellm_knows_of_it() -> None:
    known, prefilled, unknown = map(LiteLLMBackend, ("gpt-4o-mini", "anthropic/claude-3-haiku-20240307", MODEL))
    assert known.info.capabilities == {"logprobs", "grammar", "images"}
    assert prefilled.info.capabilities == {"continue", "grammar", "images"}
    assert (known.info.context, unknown.info.context) == (128_000, CONTEXT)
    assert known.price is not None
    assert known.price.usd(1_000_000, 0, 0) == pytest.approx(0.15)
    assert known.price.usd(0, 0, 1_000_000) == pytest.approx(0.6)
    assert known.price.usd(1_000_000, 1_000_000, 0) == pytest.approx(0.075)
    assert unknown.price is None


def test_what_only_the_caller_knows_he_can_say() -> None:
    told = LiteLLMBackend(MODEL, context=100, parameters=7_000_000_000)
    assert (told.info.context, told.info.parameters, told.parameters) == (100, 7_000_000_000, 7_000_000_000)
    assert LiteLLMBackend(MODEL).parameters is None
    elsewhere = LiteLLMBackend(MODEL, api_base="http://elsewhere/v1")
    assert elsewhere.info.fingerprint != LiteLLMBackend(MODEL).info.fingerprint


@pytest.mark.parametrize("model", [MODEL, "gpt-4o-mini", "replicate/meta/llama-2-70b-chat", "groq/llama-3-8b"])
def test_a_prompt_is_measured_generously_and_without_a_network(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr("socket.socket.connect", refuse)
    path = Path(start=(Message(role="user", content="one two three four <|endoftext|> \ud800 " * 20),))
    assert 120 < LiteLLMBackend(model).prompt_tokens(path) < 800


def streams(*events: dict[str, Any]) -> Answer:
    """The events as they are, as providers with an API of their own send them."""

    async def answer(request: Any) -> Any:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write_eof()
        return response

    return answer


def test_no_tokenizer_is_fetched_where_a_usage_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr("litellm.utils.Tokenizer", SimpleNamespace(from_pretrained=fetched.append))
    assert failed(says("42", usage=None), model="openai/llama-3-of-a-new-name").usage is None
    assert fetched == []


def test_a_text_is_continued_where_the_provider_takes_the_beginning_of_an_answer() -> None:
    counted = {"input_tokens": 20, "cache_read_input_tokens": 5, "output_tokens": 1}
    begun = {"id": "m", "type": "message", "role": "assistant", "content": [], "usage": counted}
    answer = streams(
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " 42"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    )
    model = "anthropic/claude-3-haiku-20240307"
    completion, body = answered(answer, request(START.append("It is")), model=model)
    assert body["messages"][-1]["role"] == "assistant"
    assert body["messages"][-1]["content"][0]["text"] == "It is"
    assert (completion.text, completion.finish) == (" 42", "stop")
    used = completion.usage
    assert (used.prompt_tokens, used.cached_tokens, used.completion_tokens) == (25, 5, 7)


def test_the_beginning_of_an_answer_is_marked_as_one() -> None:
    completion, body = answered(says(" 42"), request(START.append("It is")), model="deepseek/deepseek-chat")
    assert body["messages"][-1] == {"role": "assistant", "content": "It is", "prefix": True}
    assert completion.text == " 42"


def test_a_provider_that_is_asked_only_when_the_first_chunk_is_wanted_may_be_busy_too() -> None:
    counted = {"promptTokenCount": 11, "candidatesTokenCount": 2, "thoughtsTokenCount": 7, "totalTokenCount": 20}
    content = {"parts": [{"text": "42"}], "role": "model"}
    said = {"candidates": [{"content": content, "index": 0, "finishReason": "STOP"}], "usageMetadata": counted}

    async def main() -> tuple[Completion, float]:
        busy = refuses(429, **{"Retry-After": "0.2"})
        async with (
            provider(busy, streams(said)) as served,
            backend_of(served, "gemini/gemini-2.5-flash", patience=5) as backend,
        ):
            completion = await backend.generate(request())
            return completion, served.times[1] - served.times[0]

    completion, pause = asyncio.run(main())
    assert (completion.text, completion.finish, completion.usage.completion_tokens) == ("42", "stop", 9)
    assert 0.2 <= pause < 0.9
    assert unclosed() == []


def test_an_answer_that_had_begun_is_never_asked_for_again() -> None:
    async def main() -> tuple[BackendError, int]:
        late = streams({"error": {"message": "too many", "code": 429, "status": "RESOURCE_EXHAUSTED"}})
        async with provider(late, says("42")) as served, backend_of(served, "gemini/gemini-2.5-flash") as backend:
            with pytest.raises(BackendError) as caught:
                await backend.generate(request())
            return caught.value, len(served.bodies)

    error, sent = asyncio.run(main())
    assert (error.usage, sent) == (None, 1)
    assert "too many" in str(error)


def test_a_backend_that_is_closed_leaves_the_others_their_connections() -> None:
    async def main() -> str:
        async with provider(says("4", "2", silence=0.5)) as served, backend_of(served) as backend:
            async with backend_of(served, "openai/another") as another:
                await another.generate(request())
                running = asyncio.create_task(backend.generate(request()))
                await asyncio.sleep(0.2)
            return (await running).text

    assert asyncio.run(main()) == "42"


def test_a_backend_opened_after_another_was_closed_has_connections_of_its_own() -> None:
    async def main() -> None:
        async with provider(says("42")) as served:
            for _ in range(2):
                async with backend_of(served) as backend:
                    await backend.generate(request())
            assert unclosed() == []

    asyncio.run(main())


def test_a_closed_backend_may_be_used_on_another_event_loop() -> None:
    backend = LiteLLMBackend(MODEL, api_base="http://127.0.0.1:9/v1", concurrency=1)

    async def main() -> None:
        failures = await asyncio.gather(*(backend.generate(request()) for _ in range(3)), return_exceptions=True)
        assert {str(each) for each in failures} == {f"{MODEL}: cannot reach 127.0.0.1:9"}
        await backend.aclose()

    asyncio.run(main())
    asyncio.run(main())


def unclosed() -> list[Any]:
    """The connections that nobody closed."""
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is ClientSession and not each.closed]


def test_nothing_is_printed_and_nothing_left_open(capfd: pytest.CaptureFixture[str]) -> None:
    answered(says("42"))
    failed(says("42", finish=None, drops=True))
    failed(refuses(500))
    assert unclosed() == []
    assert capfd.readouterr() == ("", "")
