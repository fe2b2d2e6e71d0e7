"""Calls of functions on a real server: its grammar holds a model of random weights to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

pytest.importorskip("torch", reason="the local backend's extra builds the model of these tests")
from evals.sglang_cpu import Server
from tests.sglang.conftest import connected, request
from tests.tts.backends.conftest import build
from tests.tts.backends.test_prompt import HERMES
from tts.answers.calls import END, Spoken, grammar, heard
from tts.backends.sglang import SGLangBackend
from tts.errors import UsageError
from tts.types import Completion, Message, Path, Sampling

DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
ADD = {"type": "object", "properties": {"a": DIGIT, "b": {"enum": [END, "x"]}}, "required": ["a", "b"]}
FUNCTIONS = [
    ("add", {**ADD, "additionalProperties": False}),
    ("stop", {"type": "object", "additionalProperties": False}),
]
TOLD = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in FUNCTIONS]
ASKED = Path(start=(Message(role="tools", content=json.dumps(TOLD)), Message(role="user", content="1+2?")))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = build(tmp_path_factory.mktemp("random") / "model", "Llama", HERMES, context=2048)
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    with Server(folder) as server:
        yield server


def called(server: Server, tag: str) -> list[Spoken]:
    """What eight samples call."""
    sampling = Sampling(temperature=1.0, max_tokens=200, structural_tag=tag)

    async def main(backend: SGLangBackend) -> list[Spoken]:
        asked = [request(backend, ASKED, sampling) for _ in range(8)]
        told = await asyncio.gather(*map(backend.generate, asked), return_exceptions=True)
        for error in told:
            if isinstance(error, BaseException):
                raise error
        samples = [sample for sample in told if isinstance(sample, Completion)]
        found = [heard(sample.text) for sample in samples if sample.finish == "stop"]
        return [spoken for spoken in found if spoken is not None]

    return connected([server.url], main)


def test_one_call_of_one_function_where_it_is_named(server: Server) -> None:
    found = called(server, grammar(FUNCTIONS[:1], required=True, parallel=False))
    assert len(found) == 8
    for said, calls in found:
        (call,) = calls
        arguments = json.loads(call.arguments)
        assert (said, call.name, arguments.keys()) == ("", "add", {"a", "b"})
        assert 0 <= arguments["a"] <= 9
    assert len({json.dumps(calls[0].arguments) for _, calls in found}) > 1, "all are the same: nothing was sampled"


def test_at_least_one_call_where_calls_are_required(server: Server) -> None:
    found = called(server, grammar(FUNCTIONS, required=True, parallel=True))
    assert found
    assert all(calls and not said for said, calls in found)


def test_a_text_without_calls_where_none_is_wanted(server: Server) -> None:
    found = called(server, grammar(FUNCTIONS, required=False, parallel=True))
    assert all(not calls for _, calls in found), "a model of random weights does not spell what begins a call"


def test_a_schema_that_no_grammar_knows_is_refused_and_the_server_lives_on(server: Server) -> None:
    with pytest.raises(UsageError, match=r"(?i)grammar|schema"):
        called(server, grammar([("f", {"type": "nonsense"})], required=True, parallel=True))
    assert called(server, grammar(FUNCTIONS[:1], required=True, parallel=False))
