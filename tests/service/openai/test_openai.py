"""The official client of OpenAI's API, unchanged, against the whole service."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from service.api.chat import INERT, REFUSED, ChatRequest
from tests.service.faults.stack import Stack, running

ASK: list[Any] = [{"role": "user", "content": "What is six plus six?"}]
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}, "strict": True}},
]
MATHS = {"answer": "maths", "budget": {"tokens": 2_000}}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = tmp_path_factory.mktemp("profiles") / "tts.toml"
    config.write_text(
        '[models.tiny]\nbackend = "fake:tests.handlers:wordy"\nstrategy = "self_consistency:n=6"\n'
        'budget = { tokens = 900 }\nmode = "plain"\n'
        '[models.caller]\nbackend = "fake:tests.handlers:caller"\nstrategy = "self_consistency:n=9"\n'
        '[models.mute]\nbackend = "fake:tests.handlers:mute"\n'
        "[models.tiny.modes.plain]\nmax_tokens = 50\n[models.tiny.modes.hot]\ntemperature = 1.5\n"
    )
    with running(Stack(tmp_path_factory.mktemp("data"), "tiny", workers=1, config=config)) as stack:
        yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{stack.url}/v1", api_key="none is needed", max_retries=0) as client:
        yield client


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "caller", "mute"]


@pytest.mark.parametrize("name", ["tiny", "default", "tiny:hot", "tiny:single", "tiny:hot:beam", "default:single"])
def test_a_model_is_retrieved_by_any_name_that_a_completion_takes(name: str, client: OpenAI) -> None:
    told = client.models.retrieve(name)
    assert (told.id, told.object) == (name, "model")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("tinny", "did you mean 'tiny'"),
        ("tiny:hott", "did you mean 'hot'"),
        ("tinny:single", "did you mean 'tiny'"),
        ("org/tiny", "did you mean 'tiny'"),
        ("tiny:singel", "mode or a strategy: .*single"),
    ],
)
def test_a_model_that_nobody_knows_is_not_found_and_the_nearest_is_named(name: str, near: str, client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=near) as refused:
        client.models.retrieve(name)
    assert refused.value.code == "no_model"


def test_a_completion_is_the_best_answer_and_its_usage_the_whole_spend(client: OpenAI) -> None:
    told = client.chat.completions.create(model="tiny", messages=ASK, extra_body=MATHS)
    assert told.choices[0].message.content in ("I would say \\boxed{12}.", "Surely \\boxed{12}!")
    assert told.choices[0].finish_reason == "stop"
    extra: Any = told.model_extra
    assert extra["tts"]["answer"] == "12"
    assert told.usage is not None
    assert told.usage.completion_tokens == extra["tts"]["bill"]["tokens"] >= 6 * 3
    assert sum(vote["count"] for vote in extra["tts"]["votes"]) == 6


def test_a_model_s_name_may_be_followed_by_a_mode_and_a_strategy(client: OpenAI) -> None:
    for name in ("tiny:single", "tiny:hot:single", "tiny:hot"):
        extra: Any = client.chat.completions.create(model=name, messages=ASK, extra_body=MATHS).model_extra
        assert extra["tts"]["strategy"] == ("self_consistency" if name == "tiny:hot" else "single")
    with pytest.raises(openai.NotFoundError, match="mode or a strategy"):
        client.chat.completions.create(model="tiny:ets2", messages=ASK)


def test_n_returns_distinct_answers_and_says_when_there_are_fewer(client: OpenAI) -> None:
    told = client.chat.completions.create(model="tiny", messages=ASK, n=5, extra_body=MATHS)
    texts = [choice.message.content for choice in told.choices]
    assert len(texts) == len(set(texts)) == 2
    extra: Any = told.model_extra
    assert "5 answers were asked for, and 2 distinct ones were found" in extra["tts"]["notes"]


def test_a_stream_brings_the_text_once_it_is_final_and_progress_before_it(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=ASK,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=MATHS | {"progress": True},
    )
    chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    thoughts = [extra["reasoning_content"] for d in deltas if "reasoning_content" in (extra := d.model_extra or {})]
    assert thoughts[-1].startswith("6 samples, ")
    contents = [delta.content for delta in deltas if delta.content]
    assert len(contents) == 1
    assert "\\boxed{12}" in contents[0]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens >= 18


def test_a_caller_who_goes_away_cancels(client: OpenAI, stack: Stack) -> None:
    slow = MATHS | {"strategy": "best_of_n:n=100"}
    with client.chat.completions.create(model="tiny", messages=ASK, stream=True, extra_body=slow) as stream:
        next(iter(stream))
    assert last_job(stack)["state"] == "cancelled"
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.7).chat.completions.create(model="tiny", messages=ASK, extra_body=slow)
    assert last_job(stack)["state"] == "cancelled"


def last_job(stack: Stack) -> dict[str, Any]:
    """The newest job, when it has ended."""
    end = time.monotonic() + 10
    while True:
        (job,) = httpx.get(f"{stack.url}/v1/jobs?limit=1").json()["jobs"]
        if job["state"] not in ("queued", "running") or time.monotonic() > end:
            return dict(job)
        time.sleep(0.1)


def test_without_an_answer_there_is_a_refusal_and_no_made_up_text(client: OpenAI) -> None:
    told = client.chat.completions.create(
        model="mute:single", messages=ASK, max_completion_tokens=5, extra_body={"answer": "maths"}
    )
    assert told.choices[0].message.content is None
    assert told.choices[0].message.refusal
    assert told.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"logprobs": True}, "logprobs is refused"),
        ({"frequency_penalty": 0.5}, "frequency_penalty is refused"),
        ({"tools": TOOLS}, "fake has no grammar for calls"),
        ({"tools": TOOLS, "model": "caller:beam"}, "hold whole samples"),
        ({"tools": TOOLS * 2}, "two of the tools have one name"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "ad"}}}, "did you mean 'add'"),
        ({"tool_choice": "required"}, "tool_choice without tools"),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "tools together with response_format"),
        ({"functions": [{"name": "add"}]}, "/functions: functions is refused: this is the old name of tools"),
        ({"messages": [*ASK, {"role": "tool", "tool_call_id": "x", "content": "3"}]}, "no tool call before it"),
        ({"extra_body": {"budgt": {"tokens": 5}}}, "did you mean 'budget'"),
        ({"extra_body": {"budget": {"tokens": -1}}}, "greater than or equal to 1"),
        ({"n": 0}, "greater than or equal to 1"),
        ({"reasoning_effort": "high"}, "choose a mode"),
        ({"response_format": {"type": "json_object"}}, "has no grammar"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(client: OpenAI, given: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=said):
        client.chat.completions.create(**{"model": "tiny", "messages": ASK, **given})


def test_a_function_is_called_by_the_majority_and_hears_back(client: OpenAI) -> None:
    told = client.chat.completions.create(model="caller", messages=ASK, tools=TOOLS, tool_choice="auto")
    (choice,) = told.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1, "b": 2})
    extra: Any = told.model_extra
    assert sum(vote["count"] for vote in extra["tts"]["votes"]) == 9
    assert len(extra["tts"]["votes"]) == 2, "the order of arguments does not matter"
    back: Any = [*ASK, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "3"}]
    then = client.chat.completions.create(model="caller", messages=back, tools=TOOLS)
    assert (then.choices[0].finish_reason, then.choices[0].message.content) == ("stop", "It is 3.")


def test_calls_are_streamed_whole(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="caller", messages=ASK, tools=TOOLS, stream=True)
    chunks = [chunk.choices[0] for chunk in stream if chunk.choices]
    (call,) = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    assert call.function is not None
    assert (call.index, call.function.name) == (0, "add")
    assert chunks[-1].finish_reason == "tool_calls"


def test_a_text_that_is_cut_short_is_returned_as_it_is(client: OpenAI) -> None:
    told = client.chat.completions.create(model="mute:single", messages=ASK, max_completion_tokens=5)
    (choice,) = told.choices
    assert (choice.message.content, choice.finish_reason) == ("word " * 4 + "word", "length")
    assert told.usage is not None
    assert told.usage.completion_tokens == 5, "nothing is forced"


def test_images_are_refused_where_a_model_takes_none(client: OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.APIStatusError, match="text only") as refused:
        client.chat.completions.create(model="tiny:single", messages=[{"role": "user", "content": [image]}])
    assert refused.value.status_code == 400
    image["image_url"] = {"url": "http://10.0.0.1/secret.png"}
    with pytest.raises(openai.BadRequestError, match="no addresses are fetched"):
        client.chat.completions.create(model="tiny:single", messages=[{"role": "user", "content": [image]}])


def test_parameters_that_change_nothing_are_taken(client: OpenAI) -> None:
    given: dict[str, Any] = {name: values[0] for name, values in INERT.items()}
    told = client.chat.completions.create(model="tiny:single", messages=ASK, **given)
    assert told.choices[0].message.content


def test_every_parameter_is_in_the_table_of_the_documentation() -> None:
    page = File("docs/openai.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip().strip("`"): line for line in page.splitlines() if line.startswith("| `")}
    assert rows.keys() == ChatRequest.model_fields.keys() | REFUSED.keys()
    for name in REFUSED:
        assert "refused" in rows[name], name
