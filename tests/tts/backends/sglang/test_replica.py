"""What a replica makes of what its server says of its load."""

from __future__ import annotations

import asyncio
from typing import Any

from tts.backends.sglang.replica import Replica
from tts.backends.sglang.wire import Failure, Wire

FACTS = {"max_total_num_tokens": 1_000, "max_running_requests": 8}


class Saying(Wire):
    """Connections to a server that says what it is told to."""

    def __init__(self, *answers: Any) -> None:
        super().__init__("http://a:30000", None)
        self.answers = list(answers)

    def to(self, url: str) -> Wire:
        return self

    async def get(self, path: str, seconds: float) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def load(running: int, waiting: int = 0) -> dict[str, Any]:
    return {"loads": [{"num_running_reqs": running, "num_waiting_reqs": waiting, "max_running_requests": 8}]}


def refreshed(*answers: Any, entering: int = 0, leaving: int = 0) -> Replica:
    replica = Replica(Saying(*answers), FACTS, patience=1.0)
    for _ in range(entering):
        replica.enter()
    for _ in range(leaving):
        replica.leave()
    for _ in answers:
        asyncio.run(replica.refresh())
    return replica


def test_what_others_run_is_not_ours_to_use() -> None:
    assert refreshed(load(5, 1)).room == 2
    assert refreshed(load(5, 1), entering=2).room == 2


def test_our_own_calls_that_have_ended_meanwhile_are_nobody_elses() -> None:
    assert refreshed(load(6), entering=6, leaving=6).room == 8
    assert refreshed(load(6), load(0), entering=6, leaving=6).room == 8


def test_a_server_that_is_full_of_others_still_serves_one_of_ours() -> None:
    assert refreshed(load(8, 100)).room == 1


def test_a_server_that_does_not_say_its_load_is_well() -> None:
    replica = refreshed(Failure("answers 404", started=True, answered=True))
    assert replica.usable
    assert replica.room == 8


def test_a_server_that_does_not_answer_is_left_alone() -> None:
    assert not refreshed(Failure("does not answer", started=False)).usable
