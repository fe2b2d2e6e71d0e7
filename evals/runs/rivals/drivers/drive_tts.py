# mypy: ignore-errors
"""This project.

Out of the box: `self_consistency`, and a job is cancelled like any other asyncio task. Best: `best_of_n` by the model's
own confidence, which costs nothing, and a job is cancelled by its halt, which keeps the answer and the bill.
"""

import asyncio

from common import drive, read

from evals.lab.chain import Values
from service.options import open_backend
from strategies import BestOfN, SelfConsistency
from tts.halt import Halt
from tts.solve import solve as solved
from tts.types import FINISHER_TOKENS, Budget, Problem, Sampling, number
from verifiers import Confidence


def main(setup, jobs):
    """Solve all jobs."""
    backend, halt = open_backend("sglang:" + setup["url"]), Halt()
    sampling = Sampling(temperature=setup["temperature"], max_tokens=setup["max_tokens"])

    async def solve(job):
        result = await solved(
            Problem.ask(job["prompt"], Values()),
            (BestOfN if setup["setup"] == "best" else SelfConsistency)(n=job["n"]),
            {"policy": backend},
            budget=Budget(tokens=job["n"] * setup["max_tokens"] + FINISHER_TOKENS),
            scorer=Confidence(),
            sampling=sampling,
            seed=number(f"{setup['seed']}/{job['id']}"),
            halt=halt,
        )
        return result.answer and result.answer.path.text, result.bill.tokens

    def cancel():
        halt.set("cancelled")

    async def all_jobs():
        await drive(solve, jobs, setup["concurrency"], cancel if setup["setup"] == "best" else None)
        await backend.aclose()

    asyncio.run(all_jobs())


main(*read())
