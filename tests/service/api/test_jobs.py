"""Jobs over HTTP, from question to bill."""

from __future__ import annotations

import pytest

from tests.service.serving import ASKED, Served

pytestmark = pytest.mark.anyio


async def test_solve_waits_for_the_answer(service: Served) -> None:
    answered = await service.client.post("/v1/solve", json=ASKED)
    told = answered.json()
    assert (answered.status_code, told["state"], told["result"]["answer"]) == (200, "done", "12"), told
