"""What `tts doctor` says of servers that are well, and of the same servers behind a proxy that spoils one thing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the SGLang backend's extra is not installed")
from aiohttp import ClientSession, web

from evals.lab.chain import read
from evals.sglang_cpu import Server
from service.doctor import Server as Examined
from service.doctor import case_of, doctor, examine
from service.examination import BAD, GOOD, PROBLEM, Case, Finding
from service.options import ask
from tests.sglang.conftest import QUESTION, Fault, proxy
from tests.tts.backends.conftest import build
from tts.errors import BackendError, UsageError
from verifiers import ProcessReward

STEPS = read(QUESTION).steps
RIGHT, WRONG = "".join(STEPS), "".join([*STEPS[:-1], "=1,2,3"])
LAB = ProcessReward(model="sglang:", form="lab", how="prod")
ASKED = ask(QUESTION, "text", "", "\\n")
CASE = Case(ASKED, RIGHT, WRONG, LAB)
POLICY_CHECKS = {
    *("reachable", "version", "address", "metrics", "cache report", "prefix cache", "page size", "room", "schedule"),
    *(
        "tokenizers",
        "original log-probs",
        "streams",
        "requests at once",
        "determinism",
        "load report",
        "tokenizer",
        "decoding",
    ),
    *("chat template", "log-probabilities", "continuation", "abort", "cached tokens", "stop strings"),
}
WARNED = {"streams", "reachable", "requests at once"}
"""What a server of the tests may be warned about: it is started without the flags, and beside other work."""
Change = Callable[[Any, Any], Any]
"""What a server says and what it was asked, and what it is made to have said."""


def changing(server: Server, path: str, change: Change) -> Fault:
    """A fault that falsifies a page."""

    async def fault(asked: web.Request, session: ClientSession) -> web.Response | None:
        body = await asked.read()
        sent = json.loads(body or b"{}")
        if asked.path != path or sent.get("stream"):
            return None
        headers = {"Content-Type": "application/json"}
        async with session.request(asked.method, server.url + asked.path_qs, data=body, headers=headers) as reply:
            return web.json_response(change(await reply.json(), sent))

    return fault


def answering(path: str, response: Callable[[], web.Response]) -> Fault:
    async def fault(asked: web.Request, session: ClientSession) -> web.Response | None:
        return response() if asked.path == path else None

    return fault


def examined(*servers: tuple[str, str], case: Case = CASE) -> list[Finding]:
    return asyncio.run(examine([Examined(*each, {}) for each in servers], case))


def spoilt(server: Server, fault: Fault, role: str = "policy", case: Case = CASE) -> dict[str, Finding]:
    """The findings about a server with a fault, by their checks."""

    async def run() -> list[Finding]:
        async with proxy(server, fault) as url:
            return await examine([Examined(role, url, {})], case)

    return {each.check: each for each in asyncio.run(run())}


def told(change: dict[str, Any]) -> Change:
    """A change of what a server says of itself."""
    return lambda says, asked: {**says, **change}


def test_servers_that_are_well_have_no_problem(policy: Server, reward: Server) -> None:
    found = examined(("policy", policy.url), ("verifier", reward.url))
    assert {each.check for each in found if each.role == "policy"} == POLICY_CHECKS
    assert not [each for each in found if each.status == "problem"]
    assert {each.check for each in found if each.status == "warning"} <= WARNED
    assert {each.server for each in found if each.check == "good and bad"} == {reward.url}
    assert all(each.way_out for each in found if each.status != "ok")


FLAGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "version": ({"version": "0.4.9"}, "warning", "SGLang 0.5"),
    "metrics": ({"enable_metrics": False}, "warning", "--enable-metrics"),
    "cache report": ({"enable_cache_report": False}, "warning", "--enable-cache-report"),
    "prefix cache": ({"disable_radix_cache": True}, "problem", "without --disable-radix-cache"),
    "page size": ({"page_size": 64}, "warning", "--page-size 1"),
    "room": ({"max_total_num_tokens": 1500}, "warning", "--mem-fraction-static"),
    "schedule": ({"schedule_policy": "lof"}, "warning", "--schedule-policy fcfs"),
    "tokenizers": ({"tokenizer_worker_num": 4}, "warning", "--tokenizer-worker-num 1"),
}
"""By check: what a server is made to say of itself, and what is to be found."""


def test_a_launch_flag_that_costs_something_is_named(policy: Server) -> None:
    said = {name: value for change, _, _ in FLAGS.values() for name, value in change.items()}
    found = spoilt(policy, changing(policy, "/server_info", told(said)))
    assert {check: found[check].status for check in FLAGS} == {check: status for check, (_, status, _) in FLAGS.items()}
    assert all(way_out in found[check].way_out for check, (_, _, way_out) in FLAGS.items())


def test_a_launch_flag_that_helps_is_seen(policy: Server) -> None:
    said = {"incremental_streaming_output": True, "enable_deterministic_inference": True}
    found = spoilt(policy, changing(policy, "/server_info", told(said)))
    for check in ("streams", "determinism"):
        assert (found[check].status, found[check].way_out) == ("ok", "")


@pytest.mark.parametrize(("at_once", "status"), [(4096, "warning"), (128, "ok")])
def test_more_requests_at_once_than_the_cache_can_hold_are_too_many(policy: Server, at_once: int, status: str) -> None:
    said = {"internal_states": [], "max_running_requests": at_once}
    finding = spoilt(policy, changing(policy, "/server_info", told(said)))["requests at once"]
    assert finding.status == status
    assert f"{65_536 // at_once} tokens of KV cache each" in finding.seen
    assert ("--max-running-requests" in finding.way_out) is (status == "warning")


def test_a_server_of_one_request_at_a_time_has_no_room(policy: Server) -> None:
    said = {"internal_states": [], "max_running_requests": 1}
    finding = spoilt(policy, changing(policy, "/server_info", told(said)))["room"]
    assert finding.status == "warning"
    assert "--max-running-requests" in finding.way_out


def flattened(says: Any, asked: Any) -> Any:
    """Log-probabilities divided by the temperature, as a server gives them by default."""
    if asked["sampling_params"]["temperature"] > 1.0:
        says["meta_info"]["output_top_logprobs"][0][0][0] /= asked["sampling_params"]["temperature"]
    return says


def misread(says: Any, asked: Any) -> Any:
    for row in says["meta_info"].get("input_token_logprobs") or ():
        row[0] = row[0] and row[0] - 0.5
    return says


def rounded(says: Any, asked: Any) -> Any:
    for row in says["meta_info"].get("input_token_logprobs") or ():
        row[0] = row[0] and row[0] - 0.05
    return says


def astray(says: Any, asked: Any) -> Any:
    """Another continuation of what was begun before."""
    begun = len(asked["input_ids"]) in range(100, 200)
    return {**says, "output_ids": [3] * len(says["output_ids"])} if begun and says["output_ids"] else says


def forgetful(says: Any, asked: Any) -> Any:
    return {**says, "meta_info": {**says["meta_info"], "cached_tokens": 0}}


def trimmed(says: Any, asked: Any) -> Any:
    matched = says["meta_info"]["finish_reason"].get("matched")
    return {**says, "text": says["text"].removesuffix(str(matched))}


def unstopped(says: Any, asked: Any) -> Any:
    return {**says, "meta_info": {**says["meta_info"], "finish_reason": {"type": "length", "length": 48}}}


def respelt(says: Any, asked: Any) -> Any:
    """Other ids for the problem, alone or in its chat template."""
    problem = "messages" in asked or QUESTION in asked["prompt"]
    return {**says, "tokens": [[1]] * 3} if problem else says


@pytest.mark.parametrize(
    ("path", "change", "check", "status", "seen"),
    [
        ("/generate", flattened, "original log-probs", "problem", "after the temperature"),
        ("/generate", misread, "log-probabilities", "problem", "differ by at most 0.5"),
        ("/generate", rounded, "log-probabilities", "warning", "differ by at most 0.05"),
        ("/generate", astray, "continuation", "problem", "another token after 0"),
        ("/generate", forgetful, "cached tokens", "problem", "0 of 86"),
        ("/generate", trimmed, "stop strings", "problem", "cut off"),
        ("/generate", unstopped, "stop strings", "problem", "does not stop"),
        ("/generate", lambda says, asked: {**says, "output_ids": None}, "continuation", "problem", "cannot be read"),
        ("/v1/tokenize", lambda says, asked: respelt(says, asked), "tokenizer", "problem", "y=22*7"),
        ("/v1/tokenize", lambda says, asked: respelt(says, asked), "chat template", "warning", "and ours 86"),
        ("/v1/detokenize", lambda says, asked: {"text": ["?"] * 4}, "decoding", "warning", "'?' there"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_answer_that_is_not_as_it_should_be_is_named(
    policy: Server, path: str, change: Change, check: str, status: str, seen: str
) -> None:
    finding = spoilt(policy, changing(policy, path, change))[check]
    assert finding.status == status
    assert seen in finding.seen
    assert finding.way_out


def test_a_server_that_spells_the_problem_otherwise_is_sent_no_token_ids(policy: Server) -> None:
    found = spoilt(policy, changing(policy, "/v1/tokenize", respelt))
    assert {"load report", "tokenizer", "chat template", "version"} <= found.keys()
    assert (
        not {"decoding", "log-probabilities", "continuation", "abort", "cached tokens", "stop strings"} & found.keys()
    )


def test_another_models_tokenizer_is_the_one_thing_said_of_its_server(reward: Server, tmp_path: Path) -> None:
    other = build(tmp_path, "Llama")
    (finding,) = asyncio.run(examine([Examined("verifier", reward.url, {"tokenizer": other})], CASE))
    assert (finding.check, finding.status) == ("tokenizer", "problem")
    assert "tts.toml" in finding.way_out


def test_an_awkward_text_that_is_spelled_otherwise_is_no_other_model(policy: Server) -> None:
    def otherwise(says: Any, asked: Any) -> Any:
        others = [says["tokens"][0], *([1] for _ in says["tokens"][1:])]
        return {**says, "tokens": others} if QUESTION in asked["prompt"] else says

    finding = spoilt(policy, changing(policy, "/v1/tokenize", otherwise))["tokenizer"]
    assert finding.status == "warning"


def test_an_abort_that_does_not_arrive_is_a_problem(policy: Server) -> None:
    found = spoilt(policy, answering("/abort_request", lambda: web.Response()))
    assert found["abort"].status == "problem"
    assert "/abort_request" in found["abort"].way_out
    assert found["stop strings"].status == "ok"


def test_a_check_that_a_server_refuses_is_one_finding_and_the_others_go_on(policy: Server) -> None:
    found = spoilt(policy, answering("/v1/loads", lambda: web.Response(status=404, text="no such page")))
    assert found["load report"].status == "problem"
    assert "404" in found["load report"].seen
    assert {name for name, each in found.items() if each.status == "problem"} == {"load report"}


def test_behind_a_router_its_workers_are_asked_what_it_does_not_pass_on(policy: Server) -> None:
    async def routing(asked: web.Request, session: ClientSession) -> web.Response | None:
        if asked.path == "/workers":
            return web.json_response({"workers": [{"url": policy.url}]})
        return None if asked.path in ("/health", "/generate") else web.Response(status=404)

    found = spoilt(policy, routing)
    assert found["address"].status == "warning"
    assert policy.url in found["address"].seen
    assert {name for name, each in found.items() if each.status != "ok"} <= {*WARNED, "address"}


@pytest.mark.parametrize(
    ("form", "status", "way_out"),
    [
        ("qwen", "problem", "or its form=…, that it was trained for"),
        ("rlhflow", "warning", "form=…"),
    ],
)
def test_a_verifier_asked_in_another_form_than_its_own_is_found_out(
    reward: Server, form: Any, status: str, way_out: str
) -> None:
    case = Case(ASKED, RIGHT, WRONG, ProcessReward(model="sglang:", form=form))
    (finding,) = [each for each in examined(("verifier", reward.url), case=case) if each.check == "good and bad"]
    assert finding.status == status
    assert way_out in finding.way_out


@pytest.mark.parametrize("form", ["lab", "rlhflow"])
def test_a_policy_in_the_place_of_a_reward_model_is_found_out(policy: Server, form: Any) -> None:
    """Its scores may even be in the right order: it has them of tokens that it never says."""
    case = Case(ASKED, RIGHT, WRONG, ProcessReward(model="sglang:", form=form, how="prod"))
    (finding,) = [each for each in examined(("verifier", policy.url), case=case) if each.check == "good and bad"]
    assert finding.status == "warning"
    assert "with a chance of " in finding.seen
    assert "form" in finding.way_out


def test_a_verifier_that_likes_the_bad_solution_better_is_found_out(reward: Server) -> None:
    case = Case(ASKED, WRONG, RIGHT, LAB)
    (finding,) = [each for each in examined(("verifier", reward.url), case=case) if each.check == "good and bad"]
    assert finding.status == "warning"


def test_a_verifier_that_does_not_answer_has_no_score(reward: Server) -> None:
    async def failing(asked: web.Request, session: ClientSession) -> web.Response | None:
        asks = asked.path == "/generate" and b'"rid"' in await asked.read()
        return web.Response(status=500, text="out of memory") if asks else None

    finding = spoilt(reward, failing, "verifier")["good and bad"]
    assert finding.status == "problem"
    assert "out of memory" in finding.seen


def test_replicas_that_serve_the_same_are_said_to(policy: Server, twin: Server) -> None:
    (finding,) = [each for each in examined(("policy", policy.url), ("policy", twin.url)) if each.check == "same model"]
    assert finding.status == "ok"
    assert "chain-2m" in finding.seen


@pytest.mark.parametrize(
    ("path", "change", "status"),
    [
        ("/model_info", {"weight_version": "step-900"}, "problem"),
        ("/model_info", {"served_model_name": "other"}, "problem"),
        ("/server_info", {"version": "0.5.22"}, "warning"),
    ],
)
def test_replicas_that_serve_other_things_are_not(
    policy: Server, path: str, change: dict[str, str], status: str
) -> None:
    async def run() -> list[Finding]:
        async with proxy(policy, changing(policy, path, told(change))) as url:
            return await examine([Examined("policy", each, {}) for each in (policy.url, url)], CASE)

    (finding,) = [each for each in asyncio.run(run()) if each.check == "same model"]
    assert finding.status == status
    assert finding.way_out


def test_a_server_that_is_gone_does_not_keep_the_others_from_being_examined(policy: Server) -> None:
    found = examined(("policy", "http://127.0.0.1:9"), ("policy", policy.url))
    gone = [each for each in found if each.server == "http://127.0.0.1:9"]
    assert [(each.check, each.status) for each in gone] == [("reachable", "problem")]
    assert "cannot be reached" in gone[0].seen
    assert gone[0].way_out == "is an SGLang server there, and is it ready?"
    assert gone[0].way_out not in gone[0].seen
    assert {each.check for each in found if each.server == policy.url} == POLICY_CHECKS


def test_nobody_there_at_all_is_an_error() -> None:
    with pytest.raises(BackendError, match="cannot be reached"):
        examined(("policy", "http://127.0.0.1:9"), ("verifier", "http://127.0.0.1:19"))


def test_somebody_else_there_is_an_error(policy: Server) -> None:
    nothing: Change = lambda says, asked: {"max_total_num_tokens": 5}  # noqa: E731
    with pytest.raises(BackendError, match="does not say what it serves"):
        spoilt(policy, changing(policy, "/server_info", nothing))


def test_a_server_that_only_judges_is_no_policy(reward: Server) -> None:
    with pytest.raises(UsageError, match="it is a verifier: --verifier"):
        spoilt(reward, changing(reward, "/model_info", told({"is_generation": False})))


def test_a_problem_that_a_model_has_no_letters_for_is_refused(policy: Server) -> None:
    case = Case(ask(PROBLEM, "text", "", "\\n"), GOOD, BAD)
    with pytest.raises(UsageError, match="--problem TEXT"):
        examined(("policy", policy.url), case=case)


def options(**given: Any) -> dict[str, Any]:
    usual = {"verifier": None, "verifier_params": (), "problem": QUESTION, "good": RIGHT, "bad": WRONG}
    return {**usual, "step_end": "\\n", "as_json": False, **given}


def test_one_line_each_and_nothing_to_do(policy: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(f"sglang:{policy.url}", options()) == 0
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first == f"policy {policy.url}"
    assert len(lines) == len(POLICY_CHECKS)
    assert last.startswith("0 problems, ")


def test_a_problem_is_exit_code_1_and_json_is_a_list(
    policy: Server, reward: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options(verifier=f"prm@sglang:{reward.url}", verifier_params=("form=qwen",), as_json=True)
    assert doctor(f"sglang:{policy.url}", given) == 1
    found = json.loads(capsys.readouterr().out)
    bad = [each for each in found if each["status"] == "problem"]
    assert [(each["role"], each["server"], each["check"]) for each in bad] == [("verifier", reward.url, "good and bad")]
    assert set(bad[0]) == {"role", "server", "check", "status", "seen", "way_out"}


def test_a_profiles_verifier_is_examined_with_its_policy_if_servers_read_for_it(
    policy: Server, reward: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = '[models.{}]\nbackend = "sglang:{}"\nverifier = "{}"\n'
    read = profile.format("read", policy.url, f"prm:form=lab,how=prod@sglang:{reward.url}")
    alone = profile.format("alone", policy.url, "confidence")
    (tmp_path / "tts.toml").write_text(read + alone)
    monkeypatch.setenv("TTS_CONFIG", str(tmp_path / "tts.toml"))
    assert doctor("read", options(as_json=True)) == 0
    assert {each["role"] for each in json.loads(capsys.readouterr().out)} == {"policy", "verifier"}
    assert doctor("alone", options(as_json=True)) == 0
    assert {each["role"] for each in json.loads(capsys.readouterr().out)} == {"policy"}


@pytest.mark.parametrize(
    ("backend", "verifier", "message"),
    [
        ("local", None, "only SGLang servers are examined"),
        ("sglang:", None, "give sglang:http://HOST:PORT"),
        ("sglang:http://a", "prm@local:DIR", "only SGLang servers are examined"),
        ("sglang:http://a", "prm", "name a verifier that is"),
        ("sglang:http://a", "confidence", "name a verifier that is"),
        ("sglang:nowhere", None, "no address of a server"),
    ],
)
def test_what_is_no_sglang_server_is_refused(backend: str, verifier: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        doctor(backend, options(verifier=verifier))


def test_a_problem_without_its_solutions_is_refused_where_a_verifier_is_to_judge_them() -> None:
    with pytest.raises(UsageError, match="belong together"):
        doctor("sglang:http://a", options(verifier="prm@sglang:http://b", bad=None))


def test_without_a_problem_a_simple_one_is_asked() -> None:
    case = case_of(LAB, options(problem=None, good=None, bad=None))
    assert case.problem.messages[0].content == PROBLEM
    assert (case.good, case.bad) == (GOOD, BAD)
