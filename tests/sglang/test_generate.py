from __future__ import annotations

import asyncio
from pathlib import Path as File
from typing import Any

import pytest

pytest.importorskip("torch", reason="the local backend's extra is not installed")

from aiohttp import ClientSession, web

from evals.sglang_cpu import Server
from tests.sglang.conftest import GREEDY, POLICY, connected, proxy, question, request
from tests.tts.backends.conftest import build
from tts.backends.local import LocalBackend
from tts.backends.sglang import SGLangBackend
from tts.errors import BackendError, UsageError
from tts.halt import Halt
from tts.types import Completion, Path, Sampling

DRAWN = Sampling(temperature=1.0, max_tokens=256)


@pytest.fixture(scope="module")
def local() -> LocalBackend:
    return LocalBackend(POLICY)


@pytest.mark.parametrize(
    "more",
    [{}, {"until": ("\n",)}, {"sampling": Sampling(temperature=0.0, max_tokens=9)}],
    ids=["whole", "step", "cut"],
)
def test_a_greedy_continuation_is_the_local_engines(policy: Server, local: LocalBackend, more: dict[str, Any]) -> None:
    served = connected([policy.url], lambda backend: backend.generate(request(backend, **more)))
    asked = request(local, **more)  # type: ignore[arg-type]
    here = asyncio.run(local.generate(asked))
    assert (served.text, served.token_ids, served.finish) == (here.text, here.token_ids, here.finish)
    assert served.logprob == pytest.approx(here.logprob, abs=1e-3)
    assert served.usage.completion_tokens == here.usage.completion_tokens
    assert served.usage.prompt_tokens == here.usage.prompt_tokens


def test_the_model_is_described_as_the_local_engine_describes_it(policy: Server, local: LocalBackend) -> None:
    async def describe(backend: SGLangBackend) -> SGLangBackend:
        return backend

    info = connected([policy.url], describe).info
    for name in ("name", "parameters", "layers", "attention_width"):
        assert getattr(info, name) == getattr(local.info, name)
    assert info.capabilities == {"logprobs", "continue", "prefill_score", "abort", "grammar", "structural_tag"}


def test_steps_that_are_continued_one_by_one_are_the_whole(policy: Server) -> None:
    async def steps(backend: SGLangBackend) -> tuple[str, int]:
        path, fresh = question(), 0
        while path.finish is None:
            step = await backend.generate(request(backend, path, until=("\n",)))
            fresh += step.usage.prompt_tokens - step.usage.cached_tokens
            path = path.extend(step, "0")
        return path.text, fresh - backend.prompt_tokens(question())

    text, read_again = connected([policy.url], steps)
    assert text == connected([policy.url], lambda backend: backend.generate(request(backend))).text
    assert read_again <= 2 * text.count("\n")


def test_what_is_billed_is_what_the_server_counted_also_when_halted(policy: Server) -> None:
    before = policy.counted("sglang:generation_tokens_total")

    async def halted(backend: SGLangBackend) -> list[Completion]:
        halts = [Halt() for _ in range(24)]
        calls = [
            asyncio.create_task(backend.generate(request(backend, sampling=DRAWN, halt=halt)))
            for i, halt in enumerate(halts)
        ]
        for i, halt in enumerate(halts[:16]):
            await asyncio.sleep(0.01 * (i % 4))
            halt.set("cancelled")
        return await asyncio.gather(*calls)

    probe = policy.counted("sglang:generation_tokens_total") - before
    done = connected([policy.url], halted)
    billed = sum(each.usage.completion_tokens for each in done)
    assert {each.finish for each in done} >= {"halted", "stop"}
    assert billed == policy.counted("sglang:generation_tokens_total") - before - probe - 1  # one was spent on opening


def test_a_prefix_that_all_share_is_read_once(policy: Server) -> None:
    path = question("a=1+1\nb=a+22\nc=b*3\nd=c-7\ne=d+d\nf=e*2\nc,d,f?")

    async def sixteen(backend: SGLangBackend) -> list[Completion]:
        return await asyncio.gather(*(backend.generate(request(backend, path, DRAWN)) for _ in range(16)))

    before = policy.counted("sglang:realtime_tokens_total", mode="prefill_compute")
    done = connected([policy.url], sixteen)
    read = policy.counted("sglang:realtime_tokens_total", mode="prefill_compute") - before
    prompt = done[0].usage.prompt_tokens
    billed = sum(each.usage.prompt_tokens - each.usage.cached_tokens for each in done)
    assert prompt + 14 <= billed <= prompt + 15  # all prompts begin with one token
    assert billed <= read <= billed + 2  # two prompts of one token, for opening


def test_a_watch_ends_a_continuation_where_it_has_seen_enough(policy: Server) -> None:
    seen: list[int] = []

    def enough(so_far: Completion) -> bool:
        seen.append(so_far.usage.completion_tokens)
        return "\n" in so_far.text

    done = connected([policy.url], lambda backend: backend.generate(request(backend, watch=enough)))
    assert done.finish == "watched"
    assert seen == sorted(seen)
    assert done.usage.completion_tokens <= seen[-1] + 4
    assert "\n" in done.text


def test_a_halt_before_the_call_spends_nothing(policy: Server) -> None:
    halt = Halt()
    halt.set("cancelled")
    done = connected([policy.url], lambda backend: backend.generate(request(backend, halt=halt)))
    assert (done.finish, done.text, done.usage.completion_tokens) == ("halted", "", 0)


def test_banned_tokens_never_come(policy: Server) -> None:
    first = connected([policy.url], lambda backend: backend.generate(request(backend))).token_ids
    assert first is not None
    banned = GREEDY.model_copy(update={"banned_ids": (first[0],), "max_tokens": 20})
    done = connected([policy.url], lambda backend: backend.generate(request(backend, sampling=banned)))
    assert done.token_ids is not None
    assert first[0] not in done.token_ids


def test_a_token_that_would_kill_the_server_is_refused_here(policy: Server) -> None:
    with pytest.raises(UsageError, match="no token 99999"):
        connected([policy.url], lambda backend: backend.generate(request(backend, Path(start=(1, 99999)))))


def test_more_stop_strings_than_the_server_takes_are_refused(policy: Server) -> None:
    many = GREEDY.model_copy(update={"stop": tuple(f"stop {i}" for i in range(33))})
    with pytest.raises(UsageError, match="32 stop strings"):
        connected([policy.url], lambda backend: backend.generate(request(backend, sampling=many)))


def test_nobody_at_the_address_is_said_in_one_line() -> None:
    with pytest.raises(BackendError, match=r"cannot be reached.*is an SGLang server there"):
        connected(["http://127.0.0.1:9"], lambda backend: backend.generate(request(backend)))


def test_the_address_of_the_openai_endpoints_is_told_from_the_servers() -> None:
    with pytest.raises(UsageError, match="leave out /v1"):
        asyncio.run(SGLangBackend.open(["http://127.0.0.1:9/v1"]))


def test_replicas_of_different_models_are_refused(policy: Server, reward: Server) -> None:
    with pytest.raises(UsageError, match="serves chain-2m-prm, and the others chain-2m"):
        connected([policy.url, reward.url], lambda backend: backend.generate(request(backend)))


def test_another_models_tokenizer_is_refused_before_an_id_is_sent(policy: Server, tmp_path: File) -> None:
    """Its ids are other words, and one that the model has not ends the server."""
    foreign = build(tmp_path, "Llama")
    with pytest.raises(UsageError, match=r"tokenizer in .* is not that of http.*; name .*: tokenizer = … of its prof"):
        asyncio.run(SGLangBackend.open([policy.url], tokenizer=foreign))

    async def joining(backend: SGLangBackend) -> None:
        async with proxy(policy, respelling) as url:
            with pytest.raises(UsageError, match="is not that of"):
                await backend.add(url)

    connected([policy.url], joining)


async def respelling(asked: web.Request, session: ClientSession) -> web.Response | None:
    return web.json_response({"tokens": [[1], [2], [3]]}) if asked.path == "/v1/tokenize" else None


def test_a_server_that_does_not_say_how_it_spells_is_trusted(policy: Server) -> None:
    async def silent(asked: web.Request, session: ClientSession) -> web.Response | None:
        return web.Response(status=404) if asked.path == "/v1/tokenize" else None

    async def run() -> None:
        async with proxy(policy, silent) as url:
            await (await SGLangBackend.open([url])).aclose()

    asyncio.run(run())
