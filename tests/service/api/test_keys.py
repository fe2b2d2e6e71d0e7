"""Who may come in, what they see of each other, and how much they may ask for."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis import Redis

from service.keys import Keys, TenantLimits
from service.settings import Settings
from tests.service.api.test_jobs import kept
from tests.service.serving import ASKED, Served, serving
from tts.errors import UsageError

pytestmark = pytest.mark.anyio
ROUTES = [
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/1"),
    ("GET", "/v1/jobs/1/events"),
    ("GET", "/v1/jobs/1/trace"),
    ("DELETE", "/v1/jobs/1"),
    ("GET", "/v1/batches/1"),
    ("GET", "/v1/budget"),
    ("GET", "/v1/strategies"),
    ("POST", "/v1/jobs"),
    ("POST", "/v1/solve"),
    ("POST", "/v1/batches"),
]


@pytest.fixture
async def closed(settings: Settings, anyio_backend: str) -> AsyncIterator[Served]:
    """A service for those with a key."""
    async with serving(settings.model_copy(update={"auth": "keys"})) as served:
        yield served


async def key(service: Served, tenant: str, **limits: Any) -> dict[str, str]:
    keys = Keys(service.store.redis)
    if limits:
        await keys.limit(tenant, TenantLimits(**limits))
    return {"Authorization": f"Bearer {await keys.create(tenant)}"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_key_that_is_known_nothing_opens(method: str, path: str, closed: Served) -> None:
    bearer = "Bearer tts-" + "x" * 43
    for headers in ({}, {"Authorization": bearer}, {"Authorization": "Basic eA=="}, {"Authorization": "Bearer "}):
        answered = await closed.client.request(method, path, headers=headers, json=ASKED if method == "POST" else None)
        assert (answered.status_code, answered.json()["code"]) == (401, "key")
        assert answered.headers["WWW-Authenticate"] == "Bearer"


async def test_a_key_opens_until_it_is_revoked(closed: Served) -> None:
    keys = Keys(closed.store.redis)
    first, second = await key(closed, "a"), await key(closed, "a")
    assert (await closed.client.get("/v1/budget", headers=first)).json()["tenant"] == "a"
    listed = await keys.list()
    assert [each.tenant for each in listed] == ["a", "a"]
    await keys.revoke(listed[0].id)
    assert (await closed.client.get("/v1/budget", headers=first)).status_code == 401
    assert (await closed.client.get("/v1/budget", headers=second)).status_code == 200
    with pytest.raises(UsageError, match="no key"):
        await keys.revoke(listed[0].id)


async def test_an_open_service_takes_any_key_and_none(service: Served) -> None:
    for headers in ({}, {"Authorization": "Bearer whatever"}):
        assert (await service.client.get("/v1/budget", headers=headers)).json()["tenant"] == "default"
    own = await key(service, "a")
    assert (await service.client.get("/v1/budget", headers=own)).json()["tenant"] == "a"


async def test_nothing_of_another_tenant_is_there(closed: Served) -> None:
    ours, theirs = await key(closed, "a"), await key(closed, "b")
    job = (await closed.client.post("/v1/solve", json=ASKED, headers=ours)).json()
    asked = {"problems": [ASKED], "budget": {"tokens": 100}}
    asked["problems"] = [{"problem": "x"}]
    batch = (await closed.client.post("/v1/batches", json=asked, headers=ours)).json()
    paths = [*job["links"].values(), f"/v1/batches/{batch['id']}"]
    for path in paths:
        assert (await closed.client.get(path, headers=ours)).status_code == 200
        told = await closed.client.get(path, headers=theirs)
        nothing = await closed.client.get(path.replace(job["id"], "job_0").replace(batch["id"], "b0"), headers=theirs)
        assert told.status_code == nothing.status_code == 404
        assert told.json()["code"] == nothing.json()["code"]
    assert (await closed.client.delete(paths[0], headers=theirs, params={"purge": True})).status_code == 404
    assert (await closed.client.get("/v1/jobs", headers=theirs)).json()["jobs"] == []
    assert (await closed.client.get(paths[0], headers=ours)).json()["state"] == "done"


@pytest.mark.parametrize(
    ("limits", "code", "most"),
    [({"rate": 2}, "rate", 31), ({"queued": 2}, "queue", 1), ({"tokens": 400, "period": "hour"}, "budget", 3_600)],
)
async def test_more_than_was_agreed_is_refused_until_later(
    limits: dict[str, Any], code: str, most: int, settings: Settings
) -> None:
    async with serving(settings.model_copy(update={"auth": "keys"}), workers=0) as service:
        limited, free = await key(service, "a", **limits), await key(service, "b")
        for _ in range(2):
            assert (await service.client.post("/v1/jobs", json=ASKED, headers=limited)).status_code == 202
        for path in ("/v1/jobs", "/v1/solve"):
            answered = await service.client.post(path, json=ASKED, headers=limited)
            assert (answered.status_code, answered.json()["code"]) == (429, code)
            assert 1 <= int(answered.headers["Retry-After"]) <= most
        assert (await service.client.post("/v1/jobs", json=ASKED, headers=free)).status_code == 202


async def test_a_limit_in_dollars_wants_a_budget_in_dollars(closed: Served) -> None:
    limited = await key(closed, "a", usd=0.5)
    answered = await closed.client.post("/v1/jobs", json=ASKED, headers=limited)
    assert (answered.status_code, answered.json()["code"]) == (422, "unbounded")
    asked = {**ASKED, "budget": {"usd": 0.6}}
    answered = await closed.client.post("/v1/jobs", json=asked, headers=limited)
    assert (answered.status_code, answered.json()["code"]) == (429, "budget")
    assert "$0.500000 left" in answered.json()["detail"]


@pytest.mark.parametrize("tenant", ["", "a:b", "a b", "ä", "x" * 65, "../a", "a\n"])
async def test_a_tenants_name_is_one_word(tenant: str, service: Served) -> None:
    with pytest.raises(UsageError, match="tenant's name"):
        await Keys(service.store.redis).create(tenant)


async def test_keys_are_in_no_answer_no_log_and_not_in_redis(
    closed: Served, valkey: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        headers = await key(closed, "a")
        secret = headers["Authorization"].removeprefix("Bearer ")
        job = (await closed.client.post("/v1/solve", json=ASKED, headers=headers)).json()
        wrong = {"Authorization": f"Bearer {secret}x"}
        asked = [
            await closed.client.get(path, headers=sent)
            for path in (*job["links"].values(), "/v1/budget", "/v1/jobs", "/v1/nothing", "/readyz")
            for sent in (headers, wrong)
        ]
        asked.append(await closed.client.post("/v1/jobs", content=b"{", headers=headers))
    assert not [each for each in asked if secret in each.text or secret in str(each.headers)]
    assert secret not in caplog.text
    assert not [value for value in kept(valkey) if secret.encode() in value]
