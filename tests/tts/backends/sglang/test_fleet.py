"""What a fleet does when none of its replicas is well."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.tts.backends.sglang.test_replica import FACTS, Saying, load
from tts.backends.base import Health
from tts.backends.sglang.fleet import Errand, Fleet
from tts.backends.sglang.placement import Speed
from tts.backends.sglang.replica import Replica
from tts.backends.sglang.warmth import chain
from tts.backends.sglang.wire import Failure
from tts.errors import BackendError
from tts.halt import Halt

PATIENCE = 0.5
DEAD = Failure("cannot be reached", started=False)


class Server(Saying):
    """One that is dead until it is said to be well."""

    well = False

    async def get(self, path: str, seconds: float) -> Any:
        if not self.well:
            raise DEAD
        return load(0)


def errand() -> Errand:
    return Errand("talk", chain([(1, 2, 3)]), 10.0, Halt())


async def waited_in_vain(fleet: Fleet) -> float:
    """How many seconds a call waits until it is told that nobody answers."""
    began = time.monotonic()
    with pytest.raises(BackendError, match=r"no replica answers \(http://a:30000\)") as failure:
        await fleet.place(errand())
    assert failure.value.usage is not None, "it is known to have cost nothing"
    return time.monotonic() - began


async def lost() -> tuple[Fleet, Server]:
    """A fleet whose only replica has been found dead."""
    server = Server()
    replica = Replica(server, FACTS, PATIENCE)
    replica.breaker.failed(gone=True)
    fleet = Fleet([replica], PATIENCE)
    assert fleet.gone is None
    assert await waited_in_vain(fleet) >= PATIENCE
    return fleet, server


def test_only_the_first_call_waits_for_a_fleet_of_which_nobody_answers() -> None:
    async def main() -> None:
        fleet, _ = await lost()
        assert fleet.gone == "no replica answers (http://a:30000)"
        assert await waited_in_vain(fleet) < PATIENCE / 5
        await fleet.close()

    asyncio.run(main())


def test_a_fleet_serves_again_when_a_replica_says_that_it_is_well() -> None:
    async def main() -> None:
        fleet, server = await lost()
        server.well = True
        for _ in range(100):
            await asyncio.sleep(0.05 if fleet.gone else 0.0)
        assert (await fleet.place(errand())) is fleet.replicas[0]
        fleet.leave(fleet.replicas[0])
        await fleet.close()

    asyncio.run(main())


def test_a_lost_fleet_that_gets_another_replica_serves_again_at_once() -> None:
    async def main() -> None:
        fleet, _ = await lost()
        fleet.add(Replica(Server(), FACTS, PATIENCE))
        assert fleet.gone is None
        assert (await fleet.place(errand())) is fleet.replicas[1]
        fleet.leave(fleet.replicas[1])
        await fleet.close()

    asyncio.run(main())


def test_a_replica_that_was_started_anew_gets_its_share_whatever_the_other_one_has_told() -> None:
    async def main() -> None:
        slow = Speed(prefill=100.0, step=1.0, stream=0.1, told=True)
        servers = [Server(), Server()]
        servers[1].url = "http://b:30000"
        first, second = replicas = [Replica(server, FACTS, PATIENCE) for server in servers]
        fleet = Fleet(replicas, PATIENCE)
        first.speed, second.speed = Speed(told=True), slow
        await second.refresh()  # it is dead, and what it had told is no longer true
        second.breaker.succeeded()
        servers[0].well = servers[1].well = True
        taken = set()
        for i in range(20):
            replica = await fleet.place(Errand(f"talk {i}", chain([(i, 2, 3)]), 1_000.0, Halt()))
            assert replica is not None
            fleet.leave(replica)
            taken.add(replica)
        assert taken == {first, second}
        await fleet.close()

    asyncio.run(main())


def test_health_is_asked_of_replicas_that_nobody_asks_anything() -> None:
    async def main() -> None:
        server = Server()
        replica = Replica(server, FACTS, PATIENCE)
        fleet = Fleet([replica], PATIENCE)
        assert await fleet.health() == {"http://a:30000": Health(up=False)}
        server.well = True
        replica.breaker._until = 0.0
        assert await fleet.health() == {"http://a:30000": Health(up=True, resident=0)}

    asyncio.run(main())
