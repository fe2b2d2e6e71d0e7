# mypy: ignore-errors
"""A raw asyncio client: what one writes in ten minutes without any library for it.

Out of the box: `AsyncOpenAI` as it comes (it tries a call three times), N calls gathered, the most frequent answer; one
call that is lost for good loses the job. Best: six tries, a lost sample does not count, a sample without an answer does
not vote, and the samples of a job that is cancelled are aborted by the server's own way of doing so.
"""

import asyncio
from collections import Counter
from uuid import uuid4

from common import drive, read, stated
from openai import AsyncOpenAI


def main(setup, jobs):
    """Solve all jobs."""
    best = setup["setup"] == "best"
    client = AsyncOpenAI(base_url=setup["url"] + "/v1", api_key="none", **({"max_retries": 5} if best else {}))

    async def sample(job):
        rid = uuid4().hex
        try:
            return await client.chat.completions.create(
                model=setup["model"],
                messages=[{"role": "user", "content": job["prompt"]}],
                temperature=setup["temperature"],
                max_tokens=setup["max_tokens"],
                extra_body={"rid": rid} if best else {},
            )
        except asyncio.CancelledError:
            if best:
                await client.post(setup["url"] + "/abort_request", cast_to=object, body={"rid": rid})
            raise

    async def solve(job):
        found = await asyncio.gather(*(sample(job) for _ in range(job["n"])), return_exceptions=best)
        samples = [each for each in found if not isinstance(each, BaseException)]
        texts = [each.choices[0].message.content for each in samples]
        answers = [stated(setup["pattern"], text) for text in texts]
        votes = Counter(answer for answer in answers if answer is not None or not best)
        winner = votes.most_common(1)[0][0] if votes else None
        return texts[answers.index(winner)], sum(each.usage.completion_tokens for each in samples)

    asyncio.run(drive(solve, jobs, setup["concurrency"]))


main(*read())
