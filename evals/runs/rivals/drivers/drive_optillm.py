# mypy: ignore-errors
"""optillm 0.4.0, which is a proxy of its own: `optillm --base-url URL`, asked by OpenAI's client.

Out of the box: `--approach self_consistency`: five samples one after the other, the largest cluster of similar texts.
Best: the plugin `majority_voting`, N samples in one call, with a local plugin in its place that reads the answer by our
rule (`optillm_home/`), which is the way its README gives to change one. Other methods: `--approach` by their names.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from common import drive, read
from openai import AsyncOpenAI


def main(setup, jobs):
    """Solve all jobs by a server that lives as long."""
    port = free_port()
    approach = {"as is": "self_consistency", "best": "majority_voting"}.get(setup["setup"], setup["setup"])
    server = subprocess.Popen(
        [Path(sys.executable).with_name("optillm"), "--base-url", setup["url"] + "/v1", "--port", str(port),
         "--model", setup["model"], "--approach", approach, "--log", "warning"],
        env=os.environ | {"OPENAI_API_KEY": "none", "ANSWER_PATTERN": setup["pattern"]},
        cwd=Path(__file__).parent / "optillm_home" if setup["setup"] == "best" else "/",
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        client = AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        asyncio.run(drive(solver(setup, client), jobs, setup["concurrency"]))
    finally:
        server.kill()
        server.wait()


def solver(setup, client):
    """How one job is solved."""

    async def solve(job):
        found = await client.chat.completions.create(
            model=setup["model"],
            messages=[{"role": "user", "content": job["prompt"]}],
            temperature=setup["temperature"],
            max_tokens=setup["max_tokens"],
            extra_body={"k": job["n"]} if setup["setup"] == "best" else {},
        )
        return found.choices[0].message.content, found.usage.completion_tokens

    return solve


def free_port():
    """One that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(url):
    """Return once it answers."""
    for _ in range(600):
        try:
            return urllib.request.urlopen(url).read()
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(url)


main(*read())
