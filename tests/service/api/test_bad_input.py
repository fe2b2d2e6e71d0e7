"""What cannot be done is refused in one line that names it, whatever it is; nothing of it makes the service fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.settings import Settings
from tests.service.serving import ASKED, Served, listening, serving

pytestmark = pytest.mark.anyio
DEEP = json.loads("[" * 400 + "]" * 400)


async def refused(service: Served, asked: object, path: str = "/v1/solve") -> dict[str, Any]:
    """The problem that is told of a body; it is one of the caller's."""
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    answered = await service.client.post(path, content=body, headers={"Content-Type": "application/json"})
    told: dict[str, Any] = answered.json()
    assert 400 <= answered.status_code < 429, answered.text
    assert answered.headers["Content-Type"] == "application/problem+json"
    assert (told["status"], told["error"]["message"]) == (answered.status_code, told["detail"])
    assert len(told["detail"]) < 1_000
    return told


@pytest.fixture
def small(settings: Settings) -> Settings:
    return settings.model_copy(update={"most_body_bytes": 1_000, "patience_seconds": 0.3})


@pytest.mark.parametrize("said", [True, False])
async def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not(said: bool, small: Settings) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    async with serving(small) as service, listening(service.app) as real:
        for client in (service.client, real):
            answered = await client.post("/v1/jobs", content=b" " * 2_000 if said else pieces())
            assert (answered.status_code, answered.json()["code"]) == (413, "too_large")


async def test_a_length_that_is_no_length_is_no_failure(service: Served) -> None:
    answered = await service.client.post("/v1/jobs", content=b"{}", headers={"Content-Length": "9" * 5_000})
    assert answered.status_code == 413


@pytest.mark.parametrize("every", [0.1, 5.0])
async def test_a_body_that_does_not_come_in_time_is_refused_even_if_it_keeps_coming(
    every: float, small: Settings
) -> None:
    async with serving(small) as service, listening(service.app) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(b"POST /v1/jobs HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n")
        answer = asyncio.create_task(reader.read(4_000))
        async with asyncio.timeout(1.0):
            while not answer.done():
                writer.write(b" ")
                await asyncio.wait([answer], timeout=every)
        assert b" 408 " in answer.result().partition(b"\r\n")[0]
        assert b'"code":"slow"' in answer.result()
        writer.close()


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b'{"problem": "x",}', b"\xff\xfe", b'{"a": "\xff"}'])
async def test_a_body_that_is_no_json_is_refused(body: bytes, service: Served) -> None:
    assert (await refused(service, body))["status"] in (400, 422)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"problem":' * 50_000, b"1" * 10_000, b"[]", b"null", b'"x"'])
async def test_json_that_is_no_question_is_refused(body: bytes, service: Served) -> None:
    await refused(service, body)


@pytest.mark.parametrize(
    ("more", "pointer", "near"),
    [
        ({"bugdet": {"tokens": 1}}, "/bugdet", "'budget'"),
        ({"budget": {"token": 1}}, "/budget/token", "'tokens'"),
        ({"sampling": {"temprature": 1}}, "/sampling/temprature", "'temperature'"),
        ({"strategy": {"name": "single", "parametres": {}}}, "", "'parameters'"),
        ({"strategy": "best_of_n:m=3"}, "", "known: n"),
        ({"strategy": "best_of"}, "", "'best_of_n'"),
        ({"model": "defalt"}, "", "'default'"),
        ({"verifier": "confidense"}, "", "'confidence'"),
        ({"answer": "math"}, "", "'maths'"),
        ({"\ud800": 1}, "", ""),
    ],
)
async def test_an_unknown_name_is_named_with_the_nearest(
    more: dict[str, Any], pointer: str, near: str, service: Served
) -> None:
    told = await refused(service, {**ASKED, **more})
    assert near in told["detail"] + json.dumps(told.get("errors")), told
    if pointer:
        assert pointer in [each["pointer"] for each in told["errors"]]


@pytest.mark.parametrize("unit", ["tokens", "seconds", "usd", "flops"])
@pytest.mark.parametrize("amount", [0, -1, 1e31, float("nan"), float("inf"), "many", "", [], {}, True, 10**400])
async def test_a_budget_is_a_positive_number_that_somebody_could_spend(
    unit: str, amount: object, service: Served
) -> None:
    if amount is True:
        pytest.skip("JSON's true is 1 to pydantic, which is a budget")
    told = await refused(service, {**ASKED, "budget": {unit: amount}})
    assert told["errors"][0]["pointer"] == f"/budget/{unit}"


@pytest.mark.parametrize("budget", [{}, 5, "2000", [], {"tokens": None}, {"tokens": 10**18}, {"tokens": 500_000_000}])
async def test_a_budget_says_how_much_of_what(budget: object, service: Served) -> None:
    await refused(service, {**ASKED, "budget": budget})


@pytest.mark.parametrize(
    "more",
    [
        {"model": "http://169.254.169.254/"},
        {"model": "sglang:http://127.0.0.1:30000"},
        {"model": "fake:tests.handlers:broken"},
        {"model": "default/own"},
        {"verifier": "prm@http://evil"},
        {"verifier": "prm:model=sglang:http://evil"},
        {"verifier": {"name": "judge", "parameters": {"model": "http://evil"}}},
        {"verifier": {"name": "judge", "parameters": {"model": ["http://evil"]}}},
        {"strategy": {"name": "ets", "parameters": {"model": "local:/etc"}}},
        {"verifier": {"name": "recorded", "parameters": {"by": "/etc/passwd"}}},
        {"base_url": "http://evil"},
    ],
)
async def test_callers_name_no_addresses(more: dict[str, Any], service: Served) -> None:
    told = await refused(service, {**ASKED, **more})
    assert told["code"] in ("cannot_be_done", "invalid", "no_model")
    assert told.get("job") is None, "a worker was told of it"


@pytest.mark.parametrize(
    "more",
    [
        {"messages": [{"role": "user", "content": "x"}]},
        {"problem": None},
        {"problem": None, "messages": []},
        {"problem": None, "messages": [{"role": "tool", "content": "x"}]},
        {"problem": ""},
        {"problem": "x" * 600_000},
        {"seed": -1},
        {"seed": 2**60},
        {"wait": -1},
        {"wait": float("nan")},
        {"sampling": {"temperature": float("nan")}},
        {"sampling": {"max_tokens": 0}},
        {"sampling": {"stop": [""]}},
        {"strategy": "best_of_n:n"},
        {"strategy": "best_of_n:n=0"},
        {"strategy": "best_of_n:n=1e9"},
        {"strategy": {"name": "best_of_n", "parameters": {"n": DEEP}}},
        {"strategy": {"name": "best_of_n", "parameters": {"n": "\ud800"}}},
        {"strategy": {"name": "ets", "parameters": {"sharing": float("nan")}}},
        {"answer": {"kind": "exact", "x": "\ud800"}},
        {"answer": {"kind": "\ud800"}},
        {"answer": {"kind": "exact", "x": DEEP}},
        {"answer": {"kind": DEEP}},
        {"answer": {"kind": ["exact"]}},
        {"answer": {}},
        {"strategy": "self_consistency", "answer": "text"},
        {"answer": "code", "verifier": "unit_tests"},
        {"verifier": "orm"},
        {"problem": "\ud800"},
        {"model": "\x00"},
    ],
    ids=lambda each: str(each)[:50],
)
async def test_what_makes_no_sense_is_refused(more: dict[str, Any], service: Served) -> None:
    await refused(service, {**ASKED, **more})


@pytest.mark.parametrize("problem", ["\x00", "a\x00b\u2028\ufffe", "<|im_end|>", "\\ud800", "🙂" * 100])
async def test_any_text_can_be_asked(problem: str, service: Served) -> None:
    answered = await service.client.post("/v1/solve", json={**ASKED, "problem": problem})
    assert (answered.status_code, answered.json()["result"]["answer"]) == (200, "12")
    trace = await service.client.get(answered.json()["links"]["trace"])
    assert json.loads(trace.text.split("\n")[0])["problem"]["messages"][0]["content"].startswith(problem)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"problems": []}, ""),
        ({"problems": [{"problem": "x"}] * 1_001}, "1000 problems at most"),
        ({"problems": [{"problem": "x"}] * 3, "budget": {"tokens": 2}}, "not enough for 3 problems"),
        ({"problems": [{"problem": "x", "messages": []}]}, "/problems/0"),
        ({"problems": [{"problem": "x", "seed": 3}]}, "unknown parameter 'seed'"),
        ({"problems": [{"problem": "x"}], "budget": None}, "/budget"),
    ],
)
async def test_a_batch_that_makes_no_sense_is_refused(asked: dict[str, Any], told: str, service: Served) -> None:
    found = await refused(service, {"budget": {"tokens": 5_000}, **asked}, "/v1/batches")
    assert told in json.dumps(found)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/jobs?limit=0", {}, 422),
        ("/v1/jobs?limit=x", {}, 422),
        ("/v1/jobs?limt=3", {}, 422),
        ("/v1/budget?x", {}, 422),
        ("/v1/jobs?before=nan", {}, 422),
        ("/v1/jobs?before=-1", {}, 422),
        ("/v1/jobs/nothing", {}, 404),
        ("/v1/jobs/%00", {}, 404),
        ("/v1/jobs/%ff", {}, 404),
        ("/v1/jobs/" + "x" * 500, {}, 422),
        ("/v1/jobs/nothing/events", {"Last-Event-ID": "x"}, 422),
        ("/v1/batches/nothing", {}, 404),
        ("/v1/nothing", {}, 404),
    ],
)
async def test_what_is_not_there_is_not_found(path: str, headers: dict[str, str], status: int, service: Served) -> None:
    answered = await service.client.get(path, headers=headers)
    assert (answered.status_code, answered.json()["status"]) == (status, status)


@pytest.mark.parametrize("last", ["9" * 20, "9" * 18, "-1", "1.5"])
async def test_a_last_event_that_cannot_have_been_is_no_failure(last: str, service: Served) -> None:
    job = (await service.client.post("/v1/solve", json=ASKED)).json()
    answered = await service.client.get(job["links"]["events"], headers={"Last-Event-ID": last})
    assert answered.status_code in (200, 422)
    assert answered.status_code == 422 or "event: result" in answered.text


async def test_an_unknown_query_parameter_is_named_with_the_nearest(service: Served) -> None:
    told = (await service.client.get("/v1/jobs?limt=3")).json()
    assert told["detail"] == "unknown parameter 'limt'; did you mean 'limit'?"
    assert told["errors"][0]["pointer"] == "limt"


async def test_a_wrong_method_says_which_are_right(service: Served) -> None:
    answered = await service.client.put("/v1/jobs")
    assert (answered.status_code, answered.json()["code"]) == (405, "method")
    assert "POST" in answered.headers["Allow"] or "GET" in answered.headers["Allow"]


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_an_idempotency_key_is_a_short_word(key: str, service: Served) -> None:
    answered = await service.client.post("/v1/jobs", json=ASKED, headers={"Idempotency-Key": key})
    assert answered.status_code == 422


async def test_a_client_that_goes_away_in_the_middle_of_its_request_harms_nobody(service: Served) -> None:
    async with listening(service.app) as client:
        _reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(b"POST /v1/jobs HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await client.post("/v1/solve", json=ASKED)).status_code == 200


def _chat(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "q"}], **more}


def _tool(parameters: Any) -> dict[str, Any]:
    return _chat(tools=[{"type": "function", "function": {"name": "add", "parameters": parameters}}])


def _called(arguments: str) -> dict[str, Any]:
    call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": arguments}}
    return {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}


def _format(**form: Any) -> dict[str, Any]:
    return _chat(response_format=form)


@pytest.mark.parametrize(
    "asked",
    [
        _called('{"a":' * 5_000 + "1" + "}" * 5_000),
        _called("[" * 100_000),
        _tool({"title": "\ud800"}),
        _tool({"\ud800": 1}),
        _tool({"maximum": float("inf")}),
        _tool({"maximum": float("nan")}),
        _format(type="json_schema", json_schema={"schema": {"maximum": float("inf")}}),
        _format(type="json_schema", json_schema={"schema": {}, "bogus": 1}),
        _format(type="json_object", json_schema={"schema": {"type": "array"}}),
        _format(type="text", json_schema={"schema": {"type": "array"}}),
    ],
)
async def test_tools_and_schemas_that_cannot_be_told_are_the_caller_s_fault(
    service: Served, asked: dict[str, Any]
) -> None:
    assert (await refused(service, asked, "/v1/chat/completions"))["code"] == "invalid"


@pytest.mark.parametrize(
    ("handler", "ends"),
    [
        ("halved", {"tool_calls"}),
        ("unending", {"stop"}),
        ("nested", {"tool_calls", "stop"}),  # how deep Python reads depends on where it stands
        ("lengthy", {"tool_calls"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_no_call_of_a_model_s_makes_the_service_fail(
    settings: Settings, handler: str, ends: set[str], stream: bool
) -> None:
    known = settings.model_copy(update={"default_model": f"fake:tests.handlers:{handler}"})
    async with serving(known) as service:
        told = await service.client.post("/v1/chat/completions", json={**_tool({"type": "object"}), "stream": stream})
        assert told.status_code == 200, told.text
        assert any(f'"finish_reason":"{end}"' in told.text.replace('": ', '":') for end in ends)
