"""Runs what is missing of all trials, and prints the table."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path as File

from aiohttp import ClientSession
from rich.console import Console

import evals.runs.rivals as package
from evals.runs.rivals.figures import checks, table
from evals.runs.rivals.proxy import Proxy
from evals.runs.rivals.tools import HERE, RIVALS, TOOLS, Tool
from evals.runs.rivals.trials import Bench, Meter, Phase, Trial
from evals.script import Script
from evals.suites import SUITES, Item
from tts.errors import TTSError, UsageError
from tts.lines import Lines

CONCURRENCY = 32
FEW = 8
"""Jobs that are cancelled together, and jobs whose accounting is looked at."""
WIDTH = 240


def install() -> None:
    """Make the rivals' environment."""
    subprocess.run([sys.executable, "-m", "venv", RIVALS.parent.parent], check=True)
    pip: list[str | File] = [RIVALS, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "--requirement", HERE / "requirements.txt"], check=True)
    subprocess.run([*pip, "--no-deps", "optillm==0.4.0"], check=True)


def planned(tools: Sequence[Tool], seeds: int, items: Sequence[Item]) -> Iterator[tuple[Tool, Phase, int, list[Item]]]:
    """Every trial: half of the problems under failures, and few to cancel."""
    compared: dict[Phase, int] = {"plain": len(items), "failing": (len(items) + 1) // 2, "cancelled": FEW}
    others: dict[Phase, int] = {"accounting": FEW}
    for seed in range(seeds):
        for tool in tools:
            for phase, most in (compared if tool.compared else others).items():
                yield tool, phase, seed, list(items[:most])


async def run(server: str, tools: Sequence[Tool], seeds: int, items: Sequence[Item], out: File) -> list[Trial]:
    """Run what `out` does not hold yet; all trials of the plan."""
    proxy, suite, found = Proxy(server), SUITES["chain"], []
    async with ClientSession() as session, proxy.serving() as url:
        model = await served(session, server)
        bench = Bench(proxy, url, Meter(server, session), model, suite.sampling, CONCURRENCY, out / "logs")
        await bench.meter.settle()
        with Lines(out / "trials.jsonl", Trial) as lines:
            known = {(each.tool, each.phase, each.seed, each.key): each for each in lines.read()}
            for tool, phase, seed, chosen in planned(tools, seeds, items):
                key = f"{model}, {len(chosen)} problems, n={tool.n}"
                trial = known.get((str(tool), phase, seed, key))
                if trial is None and (trial := await attempted(bench, key, tool, phase, seed, chosen)):
                    lines.append(trial)
                found += [trial] if trial else []
    return found


async def attempted(bench: Bench, key: str, tool: Tool, phase: Phase, seed: int, items: Sequence[Item]) -> Trial | None:
    """One trial, or the reason why there is none."""
    try:
        trial = await bench.trial(key, tool, phase, seed, items)
    except (TTSError, OSError, TimeoutError) as error:
        print(f"{tool}, {phase}, seed {seed}: {type(error).__name__} {error}", flush=True)
        return None
    after = f", {trial.after:,} after the cancellation" if trial.after is not None else ""
    print(f"{tool}, {phase}, seed {seed}: {trial.calls} calls, {trial.metered:,} tokens{after}", flush=True)
    return trial


async def served(session: ClientSession, server: str) -> str:
    """The name of the model that the server serves."""
    try:
        async with session.get(f"{server}/model_info") as response:
            return File((await response.json())["model_path"]).name
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"no SGLang server at {server}; name one with --server") from error


def main(server: str, problems: int, seeds: int, tools: Sequence[str], out: File, setup: bool) -> None:
    """Install, or measure."""
    if setup:
        return install()
    chosen = [tool for tool in TOOLS if not tools or tool.name in tools]
    suite = SUITES["chain"]
    items = suite.items("dev", problems)
    trials = asyncio.run(run(server.rstrip("/"), chosen, seeds, items, out))
    console = Console(width=WIDTH)
    console.print(table(trials, suite, items))
    for line in checks(trials):
        console.print(line)
    return None


if __name__ == "__main__":
    script = Script(package.__doc__)
    script.add_argument("--server", default="http://127.0.0.1:30000", help="where SGLang serves the lab's chain-2m")
    script.add_argument("--problems", type=int, default=32, help="of the development split")
    script.add_argument("--seeds", type=int, default=3)
    script.add_argument("--tools", nargs="*", choices=sorted({tool.name for tool in TOOLS}), default=[])
    script.add_argument(
        "--out", type=File, default=File("runs/rivals"), help="where trials are kept; another one begins anew"
    )
    script.add_argument("--setup", action="store_true", help="install the rivals, and do nothing else")
    script.run(main)
