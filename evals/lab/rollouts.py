"""Monte-Carlo labels for a reward model: where did a policy's solutions go wrong, as the policy itself can tell?

    python -m evals.lab.rollouts evals/lab/models/chain-2m --problems 5000

Of each training problem some solutions are sampled; problems that are always or never solved say nothing and are
dropped. A step is good if, of eight completions from there, any reaches the right answer (Wang et al. 2024,
"Math-Shepherd", section 3.3, hard estimation). The first step from which none does is found by bisection, because
what follows it is no more hopeful, and labels end there (Luo et al. 2024, "Improve mathematical reasoning in language
models by automated process supervision", section 3.2). One line per problem goes into `DIR/.training/rollouts.jsonl`;
the same command goes on from there.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path as File

from evals.lab import chain
from evals.lab.chain import Chain
from evals.lab.examples import Rollouts, Solution, rollouts_of
from evals.lab.splits import drawn
from evals.lab.tokens import ALPHABETS, BOS_ID
from evals.script import Script
from tts.backends.base import Request
from tts.backends.local import LocalBackend
from tts.halt import Halt
from tts.lines import Lines
from tts.run import all_of
from tts.types import Completion, Path, Sampling, number

SAMPLES, COMPLETIONS = 4, 8
"""Solutions per problem, and completions per prefix (K)."""
AT_ONCE, SAY_SECONDS = 48, 10.0
SAMPLING = Sampling(temperature=1.0, max_tokens=256)


class Labeller:
    """Samples a policy's solutions and labels their steps."""

    def __init__(self, policy: File) -> None:
        self.backend = LocalBackend(policy)

    async def label(self, index: int) -> Rollouts:
        """The different solutions to one training problem, the wrong ones with their first hopeless step; none if all
        are right or all are wrong."""
        rng = random.Random(f"rollouts/{index}")
        operations = rng.randint(chain.FEWEST_OPERATIONS, chain.MOST_OPERATIONS)
        problem = drawn("train", rng, lambda r: chain.generate(r, operations))
        samples = [s for s in await self._continue(problem, "", SAMPLES, f"{index}") if s.finish == "stop"]
        solutions = {sample.text: right_answer(problem, sample) for sample in samples}
        witnesses = [chain.steps_of(text) for text, right in solutions.items() if right]
        labelled = []
        for i, (text, right) in enumerate(solutions.items() if len(set(solutions.values())) == 2 else ()):
            steps = chain.steps_of(text)
            found = None if right else await self.first_hopeless(problem, steps, witnesses, f"{index}/{i}")
            labelled.append(Solution(steps=tuple(steps), first_error=found))
        return Rollouts(index=index, prompt=problem.prompt + "\n", solutions=tuple(labelled))

    async def first_hopeless(self, problem: Chain, steps: list[str], witnesses: list[list[str]], key: str) -> int:
        """The least i such that no completion after step i reaches the answer: after the last step none does. What
        the solution shares with a right one is hopeful; where it leaves the last of them is the first place to try."""
        hopeful, hopeless = max(_shared(steps, right) for right in witnesses) - 1, len(steps) - 1
        middle = hopeful + 1
        while hopeless - hopeful > 1:
            prefix = "".join(steps[: middle + 1])
            completions = await self._continue(problem, prefix, COMPLETIONS, f"{key}/{middle}")
            if any(right_answer(problem, each) for each in completions):
                hopeful = middle
            else:
                hopeless = middle
            middle = (hopeful + hopeless) // 2
        return hopeless

    async def _continue(self, problem: Chain, prefix: str, count: int, key: str) -> list[Completion]:
        path = Path(start=(BOS_ID, *ALPHABETS["chain"].encode(problem.prompt + "\n" + prefix)))
        length = self.backend.prompt_tokens(path)
        requests = (
            Request(
                id=f"{key}:{i};",
                path=path,
                prompt_tokens=length,
                max_tokens=SAMPLING.max_tokens,
                sampling=SAMPLING,
                seed=number(f"rollouts/{key}/{i}"),
                halt=Halt(),
            )
            for i in range(count)
        )
        return list(await asyncio.gather(*map(self.backend.generate, requests)))


def right_answer(problem: Chain, completion: Completion) -> bool:
    """Whether a completion ends in the right answer, whatever came before."""
    stated = chain.Values().extract(completion.text, completion.finish == "stop")
    return stated == problem.answer


def _shared(one: list[str], other: list[str]) -> int:
    """How many steps two solutions begin with in common."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


async def main(policy: File, problems: int) -> None:
    """Label what no line tells about yet."""
    labeller, places = Labeller(policy), asyncio.Semaphore(AT_ONCE)
    began = said = time.monotonic()
    finished = 0

    with Lines(rollouts_of(policy), Rollouts) as lines:
        done = {line.index for line in lines.read()}
        todo = [index for index in range(problems) if index not in done]

        async def one(index: int) -> None:
            nonlocal finished, said
            async with places:
                lines.append(await labeller.label(index))
            finished += 1
            now = time.monotonic()
            if now - said > SAY_SECONDS:
                said, left = now, (now - began) / finished * (len(todo) - finished)
                count = f"{len(done) + finished} of {problems} problems"
                print(f"{policy.name}: {count}, {left / 60:.0f} min left", flush=True)

        await all_of(map(one, todo))


if __name__ == "__main__":
    script = Script(__doc__)
    script.add_argument("policy", type=File, help="a policy's folder")
    script.add_argument("--problems", type=int, default=5000, help="training problems in all (default: 5000)")
    script.run(lambda policy, problems: asyncio.run(main(policy, problems)))
