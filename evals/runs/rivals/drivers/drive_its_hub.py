# mypy: ignore-errors
"""its_hub 1.2.0.

Out of the box: the README's `SelfConsistency()` and `OpenAICompatibleLanguageModel`, awaited (`ainfer`), one of each
for all jobs: votes are for whole texts, 32 calls at once, three tries a call. Best: votes are for stated answers, and a
text without one stands alone; no limit on calls at once; six tries.
`best_of_n`: the README's `BestOfN` with an `LLMJudge`, without structured outputs, for which the policy lacks braces.
"""

import asyncio
import random

from common import drive, read, stated
from its_hub import BestOfN, LLMJudge, OpenAICompatibleLanguageModel, SelfConsistency
from its_hub.core.orchestrator import LMOrchestrator


def main(setup, jobs):
    """Solve all jobs."""
    random.seed(setup["seed"])
    model = OpenAICompatibleLanguageModel(
        endpoint=setup["url"] + "/v1",
        api_key="none",
        model_name=setup["model"],
        temperature=setup["temperature"],
        max_completion_tokens=setup["max_tokens"],
        **({"max_tries": 6} if setup["setup"] == "best" else {}),
    )
    algorithm = {
        "as is": SelfConsistency,
        "best": lambda: expert(setup["pattern"]),
        "best_of_n": lambda: BestOfN(orm=LLMJudge(lm=model, response_format=None)),
    }[setup["setup"]]()

    async def solve(job):
        result = await algorithm.ainfer(model, job["prompt"], budget=job["n"], return_response_only=False)
        return result.the_one["content"], result.usage.completion_tokens

    async def all_jobs():
        await drive(solve, jobs, setup["concurrency"])
        await model.close()

    asyncio.run(all_jobs())


def expert(pattern):
    """The algorithm with everything set that can be."""
    return SelfConsistency(
        consistency_space_projection_func=lambda text: stated(pattern, text) or object(),
        orchestrator=LMOrchestrator(max_concurrency=-1),
    )


main(*read())
