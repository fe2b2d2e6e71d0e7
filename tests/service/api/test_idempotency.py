"""The same key is the same job, however often it is asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.keys import Keys
from service.settings import Settings
from tests.service.serving import ASKED, Served, serving

pytestmark = pytest.mark.anyio
BATCH = {"problems": [{"problem": "a"}, {"problem": "b"}], "budget": {"tokens": 100}, "strategy": "single"}
POSTS: list[tuple[str, dict[str, Any]]] = [("/v1/solve", ASKED), ("/v1/jobs", ASKED), ("/v1/batches", BATCH)]


async def asked(
    service: Served, path: str, body: dict[str, Any], key: str, **headers: str
) -> tuple[int, dict[str, Any]]:
    answered = await service.client.post(path, json=body, headers={"Idempotency-Key": key, **headers})
    return answered.status_code, answered.json()


@pytest.mark.parametrize(("path", "body"), POSTS)
async def test_the_same_key_and_body_are_the_same_job(path: str, body: dict[str, Any], service: Served) -> None:
    answers = await asyncio.gather(*(asked(service, path, body, "k") for _ in range(5)))
    assert len({told["id"] for _, told in answers}) == 1
    assert {status for status, _ in answers} <= {200, 202}
    listed = (await service.client.get("/v1/jobs")).json()["jobs"]
    assert len(listed) == len(body.get("problems", [0]))


@pytest.mark.parametrize(("path", "body"), POSTS)
async def test_the_same_key_with_another_body_is_refused(path: str, body: dict[str, Any], service: Served) -> None:
    _, first = await asked(service, path, body, "k")
    status, told = await asked(service, path, {**body, "seed": 7}, "k")
    assert (status, told["code"], told["job"]) == (422, "idempotency", first["id"])


async def test_the_same_key_on_another_route_is_refused(service: Served) -> None:
    await asked(service, "/v1/jobs", ASKED, "k")
    assert (await asked(service, "/v1/solve", ASKED, "k"))[0] == 422


async def test_another_key_or_none_is_another_job(service: Served) -> None:
    ids = {(await asked(service, "/v1/jobs", ASKED, key))[1]["id"] for key in ("k", "l")}
    ids |= {(await service.client.post("/v1/jobs", json=ASKED)).json()["id"] for _ in range(2)}
    assert len(ids) == 4


async def test_keys_are_each_tenants_own(settings: Settings) -> None:
    async with serving(settings.model_copy(update={"auth": "keys"})) as service:
        ids = set()
        for tenant in ("a", "b"):
            secret = await Keys(service.store.redis).create(tenant)
            _, told = await asked(service, "/v1/jobs", ASKED, "k", Authorization=f"Bearer {secret}")
            ids.add(told["id"])
        assert len(ids) == 2


@pytest.mark.parametrize("other", [ASKED, {**ASKED, "seed": 7}])
async def test_a_key_is_free_again_once_its_job_was_purged(other: dict[str, Any], service: Served) -> None:
    _, first = await asked(service, "/v1/solve", ASKED, "k")
    await service.client.delete(first["links"]["self"], params={"purge": True})
    status, second = await asked(service, "/v1/solve", other, "k")
    assert (status, second["state"]) == (200, "done")
    assert second["id"] != first["id"]


async def test_what_is_asked_again_is_paid_once(service: Served) -> None:
    for _ in range(3):
        await asked(service, "/v1/solve", ASKED, "k")
    budget = (await service.client.get("/v1/budget")).json()
    assert (budget["tokens"]["spent"], budget["jobs_ended"]) == (20, 1)
