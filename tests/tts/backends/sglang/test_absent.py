"""Replicas that were not there at the start."""

from __future__ import annotations

import asyncio

from tts.backends.sglang.absent import Absent
from tts.errors import BackendError, UsageError

URL = "http://b:30000"


class Door:
    """Says of each who knocks the next of what it is given: an error, or that it may come in."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.said: list[str] = []

    async def add(self, url: str) -> None:
        await asyncio.sleep(0)
        if answer := self.answers.pop(0):
            raise answer


def after(door: Door, looks: int, pause: float = -1.0) -> Absent:
    """Those who are missing after so many looks, one after the other."""

    async def main() -> Absent:
        absent = Absent([URL], door.add, door.said.append, pause)
        for _ in range(looks):
            absent.look()
            await asyncio.sleep(0.01)
        await absent.close()
        return absent

    return asyncio.run(main())


def test_one_that_does_not_answer_yet_is_asked_again_until_it_does() -> None:
    door = Door(BackendError("dead"), BackendError("dead"), None)
    assert after(door, 2).urls == [URL]
    door = Door(BackendError("dead"), BackendError("dead"), None)
    assert after(door, 5).urls == []
    assert door.said == [f"{URL} answers now, and serves with the others"]
    assert not door.answers


def test_one_that_serves_something_else_is_left_out_and_said_to_be() -> None:
    door = Door(UsageError("it serves another model"))
    assert after(door, 3).urls == []
    assert door.said == ["left out: it serves another model"]


def test_it_is_not_asked_with_every_call() -> None:
    door = Door(BackendError("dead"), None)
    after(door, 5, pause=60.0)
    assert len(door.answers) == 1
