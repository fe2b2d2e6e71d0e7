"""Some minutes of a small deployment, for the pictures of the dashboards.

    python -m tests.service.observe.staged --minutes 10

Two replicas of the lab's policy and its reward model on a real SGLang, three workers, two API processes, three tenants;
in the course of it a job is cancelled, one asks for a model that is not there, one for more than its tenant has, a
worker is killed, and then a replica.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path as File
from typing import Any
from urllib.parse import urlsplit

import click

from evals.lab.settings import MODELS
from evals.sglang_cpu import Server
from evals.suites import chain
from tests.service.faults.stack import Stack, running
from tests.service.observe.pictures import draw
from tests.service.observe.prometheus import watching
from tests.service.observe.traffic import Callers, Kind, keyed

PROFILES = """
[models.chain]
backend = "sglang:{policies}"
price = {{ prompt = 0.05, completion = 0.2 }}

[models.judged]
backend = "sglang:{policies}"
verifier = "prm:form=lab,how=prod@reward"
price = {{ prompt = 0.05, completion = 0.2 }}

[models.reward]
backend = "sglang:{reward}"
price = {{ prompt = 0.05, completion = 0 }}

[models.gone]
backend = "sglang:http://127.0.0.1:1"
price = {{ prompt = 0.05, completion = 0.2 }}
"""
KINDS = (
    Kind("chain", "best_of_n:n=8", 2_000),
    Kind("chain", "self_consistency:n=8", 2_000),
    Kind("judged", "best_of_n:n=8", 2_000),
    Kind("judged", "beam:n=4", 1_500),
)
SETTINGS = {"TTS_AUTH": "keys", "TTS_METRICS_TOKEN": "for the pictures"}
AS_THE_LAB: dict[str, Any] = {
    "answer": "chain",
    "instruction": "",
    "step_end": "\n",
    "sampling": {"temperature": 1.0, "max_tokens": 256},
}


async def usual(callers: Callers, seconds: float, problems: Iterator[Any]) -> None:
    """Callers who come in waves."""
    dice, began = random.Random(0), time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        kind, tenant = dice.choice(KINDS), dice.choice(("acme", "acme", "globex"))
        await callers.ask(tenant, kind, problem=next(problems).problem, **AS_THE_LAB)
        wave = 1 + (passed % 180 > 90)
        await asyncio.sleep(dice.expovariate(wave / 2.5))


async def mishaps(stack: Stack, callers: Callers, servers: list[Server], seconds: float, problem: str) -> None:
    """One after the other, spread over the time."""

    async def ask(tenant: str, model: str, tokens: int = 2_000) -> str:
        return await callers.ask(tenant, Kind(model, "best_of_n:n=8", tokens), problem=problem, **AS_THE_LAB)

    await asyncio.sleep(seconds * 0.2)
    for _ in range(3):
        await ask("initech", "chain")
        await ask("acme", "gone")
        await callers.cancel("acme", await ask("acme", "chain"))
        await asyncio.sleep(seconds * 0.05)
    await asyncio.sleep(seconds * 0.1)
    for _ in range(6):  # so that it has something to lose
        await ask("acme", "chain")
    await asyncio.sleep(1.5)
    stack.kill("worker", 0)
    await asyncio.sleep(seconds * 0.2)
    await asyncio.to_thread(servers[1].kill)
    await asyncio.to_thread(lambda: servers[1].start().ready())


async def staged(stack: Stack, servers: list[Server], seconds: float) -> None:
    """All of it."""
    callers, problems = Callers(stack, await keyed(stack)), chain.rows("dev")
    try:
        await asyncio.gather(
            usual(callers, seconds, problems), mishaps(stack, callers, servers, seconds, next(problems).problem)
        )
    finally:
        await callers.aclose()


@click.command()
@click.option("--minutes", type=float, default=10.0, show_default=True)
def main(minutes: float) -> None:
    """Run a deployment for a while, and draw its dashboards."""
    with ExitStack() as stack:
        folder = File(stack.enter_context(tempfile.TemporaryDirectory()))
        named = "--served-model-name"
        servers = [
            *(Server(MODELS / "chain-2m", named, "chain-2m") for _ in range(2)),
            Server(MODELS / "chain-2m-prm", named, "chain-2m-prm"),
        ]
        for server in servers:
            stack.callback(server.kill)
            server.start()
        urls = [server.ready().url for server in servers]
        (folder / "tts.toml").write_text(PROFILES.format(policies=",".join(urls[:2]), reward=urls[2]))
        service = Stack(folder, "chain", workers=3, apis=2, config=folder / "tts.toml", settings=SETTINGS)
        targets = {
            "tts": [f"127.0.0.1:{port}" for port in service.ports],
            "sglang": [urlsplit(url).netloc for url in urls],
        }
        stack.enter_context(running(service))
        reader = stack.enter_context(watching(folder / "prometheus", targets, SETTINGS["TTS_METRICS_TOKEN"]))
        asyncio.run(staged(service, servers, minutes * 60))
        for file in draw(reader, minutes * 60):
            click.echo(f"{file}  {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
