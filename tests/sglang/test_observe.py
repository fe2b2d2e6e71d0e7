"""What the dashboards ask of SGLang servers, and of workers that reach them, asked of real ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from evals.sglang_cpu import Server
from tests.service.faults.stack import Stack, running
from tests.service.observe.prometheus import BINARY, MISSING, Asked, Reader, asked_by_panels, asked_by_rules, watching
from tests.service.observe.test_live import unserved
from tests.sglang.conftest import QUESTION

pytestmark = pytest.mark.skipif(BINARY is None, reason=MISSING)

SECONDS = 12.0
BODY = {
    "problem": QUESTION,
    "answer": "chain",
    "instruction": "",
    "strategy": "best_of_n:n=8",
    "budget": {"tokens": 4_000},
    "sampling": {"temperature": 1.0, "max_tokens": 256},
}
ALL = [*asked_by_panels(), *asked_by_rules()]
SERVED = [each for each in ALL if each not in unserved(ALL)]
"""What is asked of servers."""


class Watched(NamedTuple):
    """Servers that were busy for a while, and who saw it."""

    reader: Reader
    began: float


@pytest.fixture(scope="module")
def watched(servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    urls = [servers[name].url for name in ("policy", "twin")]
    (folder / "tts.toml").write_text(f'[models.chain]\nbackend = "sglang:{",".join(urls)}"\n')
    stack = Stack(folder / "data", "chain", workers=1, config=folder / "tts.toml")
    targets = {"tts": [f"127.0.0.1:{stack.ports[0]}"], "sglang": [urlsplit(url).netloc for url in urls]}
    with running(stack), watching(folder / "prometheus", targets) as reader:
        began = time.time()
        while time.time() < began + SECONDS:
            told = httpx.post(f"{stack.url}/v1/solve", json=BODY, timeout=60)
            assert told.status_code == 200, told.text
        time.sleep(1.5)  # until the last of it has been seen
        yield Watched(reader, began)


@pytest.mark.parametrize("asked", SERVED, ids=lambda asked: asked.where)
def test_a_panel_of_servers_has_data(watched: Watched, asked: Asked) -> None:
    found = watched.reader.over(asked.of, time.time() - watched.began, 1)
    assert any(not each.empty for each in found), asked.of


def test_both_replicas_are_seen_by_the_worker_and_by_prometheus(watched: Watched) -> None:
    assert len(watched.reader.now("tts_replica_up == 1")) == 2
    assert len(watched.reader.now('up{job="sglang"} == 1')) == 2
    hits = watched.reader.now("sum(sglang:cached_tokens_total) / sum(sglang:prompt_tokens_total)")
    assert 0 < hits[0].points[0][1] < 1
