from __future__ import annotations

import json
from pathlib import Path as File
from typing import Any

import pytest

from tts.backends.base import Request
from tts.backends.prompt import Prompter
from tts.backends.sglang.draft import Draft
from tts.backends.sglang.wire import generation, looks, readout, said
from tts.halt import Halt
from tts.types import Message, Path, Sampling

PROMPTER = Prompter(File("evals/lab/models/chain-2m"))
PROMPT = PROMPTER.start_ids((Message(role="user", content="a=1+1\na?"),))
IDS = tuple(PROMPTER.encode("a=1+1=2\n=2"))
EOS = 2


def draft(tokens: int = 100, **more: Any) -> Draft:
    sampling = Sampling(max_tokens=tokens, **more.pop("sampling", {}))
    path = Path(start=(Message(role="user", content="a=1+1\na?"),))
    request = Request(
        id="job:0;",
        path=path,
        prompt_tokens=len(PROMPT),
        max_tokens=tokens,
        sampling=sampling,
        seed=0,
        halt=Halt(),
        **more,
    )
    return Draft(request, (PROMPT,), PROMPTER)


def event(ids: tuple[int, ...], finish: dict[str, Any] | None = None, cached: int = 0) -> bytes:
    told = {
        "completion_tokens": len(ids),
        "cached_tokens": cached,
        "finish_reason": finish,
        "output_token_logprobs": [[-0.5, i, None] for i in ids],
    }
    return json.dumps({"text": "", "output_ids": ids, "meta_info": told}).encode()


def told(ids: tuple[int, ...], **finish: Any) -> Any:
    return said([event(ids, finish or None)], deltas=False)


def test_the_end_of_a_text_is_counted_and_not_part_of_it() -> None:
    each = draft()
    each.take(told((*IDS, EOS), type="stop", matched=EOS))
    done = each.completion(1.0)
    assert (done.finish, done.token_ids, done.usage.completion_tokens) == ("stop", IDS, len(IDS) + 1)
    assert done.logprob == pytest.approx(-0.5 * (len(IDS) + 1))


@pytest.mark.parametrize(("more", "finish"), [({"until": ("\n",)}, "until"), ({"sampling": {"stop": ("\n",)}}, "stop")])
def test_a_stop_string_says_whose_it_was(more: dict[str, Any], finish: str) -> None:
    each = draft(**more)
    each.take(told(IDS, type="stop", matched="\n"))
    assert each.finish == finish


def test_what_a_failed_replica_may_have_made_is_not_asked_for_again_and_not_billed() -> None:
    each = draft(tokens=100)
    each.lose(told(IDS), started=True)
    usage = each.usage(0.0)
    assert usage.completion_tokens == len(IDS)
    assert usage.uncertain_tokens == 100 - len(IDS)
    assert each.left == 100 - len(IDS) - 2 * each.interval
    assert each.context() == (*PROMPT, *IDS)


def test_a_replica_that_never_began_costs_nothing() -> None:
    each = draft(tokens=100)
    each.lose(None, started=False)
    assert each.left == 100
    assert each.usage(0.0).uncertain_tokens == 0


def test_two_replicas_make_no_more_than_was_granted() -> None:
    each = draft(tokens=100)
    each.lose(told(IDS), started=True)
    each.take(told((IDS[0],) * each.left, type="length"))
    assert each.usage(0.0).completion_tokens <= 100
    assert each.finish == "length"


def test_a_draft_with_nothing_left_ends_there() -> None:
    each = draft(tokens=20)
    each.lose(told(IDS), started=True)
    assert each.finish == "length"


def test_a_stop_string_that_began_on_another_replica_is_found() -> None:
    each = draft(until=("1=2",))
    cut = next(i for i in range(len(IDS)) if PROMPTER.decode(IDS[:i]).endswith("1+1"))
    each.lose(told(IDS[:cut]), started=True)
    each.take(told(IDS[cut:], type="stop", matched=EOS))
    assert each.finish == "until"
    assert each.text.endswith("1=2")


def test_no_attempts_id_begins_anothers() -> None:
    each = draft()
    names = set()
    for each.attempts in range(12):
        names.add(each.id)
    assert not any(a != b and a.startswith(b) for a in names for b in names)


def test_a_stream_of_deltas_adds_up_to_one_of_wholes() -> None:
    whole = said([event(IDS[:3]), event(IDS, {"type": "length"})], deltas=False)
    parts = [json.loads(event(IDS[:3])), json.loads(event(IDS[3:], {"type": "length"}))]
    parts[1]["meta_info"]["completion_tokens"] = len(IDS)
    assert said([json.dumps(part).encode() for part in parts], deltas=True) == whole


def test_long_texts_come_in_few_pieces_and_watched_ones_token_by_token() -> None:
    assert draft(tokens=100).interval == 16
    assert draft(tokens=32_000).interval == 1_000
    assert draft(watch=lambda so_far: False).interval == 1


def test_a_body_keeps_stops_apart_from_ends_and_bans_by_bias() -> None:
    each = draft(until=("\n",), sampling={"stop": ("}",), "banned_ids": (7,), "logprobs": False})
    body = generation(each.request, each.prompt, 50, (9,), 16)
    assert body["sampling_params"]["stop"] == ["}", "\n"]
    assert body["sampling_params"]["stop_token_ids"] == [9]
    assert list(body["sampling_params"]["logit_bias"]) == ["7"]
    assert body["return_logprob"] is False


def test_a_readout_of_the_last_place_reads_everything_else_from_the_cache() -> None:
    assert readout(range(10), [5], first=9)["logprob_start_len"] == -1
    assert readout(range(10), [5], first=6)["logprob_start_len"] == 6


def test_looks_are_by_the_place_they_follow() -> None:
    def row(value: float) -> list[list[Any]]:
        return [[value, 5, None]]

    reply = {
        "meta_info": {"input_token_ids_logprobs": [None, row(-1), row(-2)], "output_token_ids_logprobs": [row(-3)]}
    }
    assert looks(reply, 6) == {6: (-1,), 7: (-2,), 8: (-3,)}
