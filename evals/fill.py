"""Fill a bank: draw samples of a suite's problems through the ordinary door, each of them once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path as File
from typing import NamedTuple

from evals.evaluate import job_seed
from evals.pool import Pool
from evals.suites import Item
from strategies import SelfConsistency
from tts.backends.base import Backend
from tts.bank import TOKENIZER, Asked, Complete, Drawn, Filling, Manifest
from tts.errors import NoSamples
from tts.run import all_of
from tts.solve import solve
from tts.types import FINISHER_TOKENS, Budget, Completion, Path


class Gaps(NamedTuple):
    """How many samples are missing, and the first reason why."""

    missing: int
    reason: str


async def fill(
    items: Sequence[Item],
    backend: Backend,
    manifest: Manifest,
    folder: File,
    *,
    samples: int,
    seed: int,
    concurrency: int,
    tokenizer: File | None = None,
    observe: Callable[[int, int], None],
) -> Gaps:
    """Draw what the bank in `folder` does not hold yet: `samples` of each problem under this seed. `observe` is told
    how many there are, and how many of them are new. A problem of which a call failed is not complete until the next
    filling closes the gap.
    """
    with Filling(folder, manifest) as filling:
        if tokenizer:
            shutil.copyfile(tokenizer, folder / TOKENIZER)
        job = _Fill(backend, filling, samples, seed, observe)
        places = asyncio.Semaphore(concurrency)

        async def one(item: Item) -> None:
            async with places:
                await job.problem(item)

        await all_of(one(item) for item in items)
        return Gaps(len(items) * samples - job.done, job.reason)


class _Fill:
    def __init__(
        self, backend: Backend, filling: Filling, samples: int, seed: int, observe: Callable[[int, int], None]
    ) -> None:
        self._backend, self._filling, self._observe = backend, filling, observe
        self._samples, self._seed = samples, seed
        self.done = self._new = 0
        self.reason = ""

    async def problem(self, item: Item) -> None:
        """Draw what is missing of one problem."""
        name, start = item.problem.id, Path.of(item.problem)
        length, context = self._backend.prompt_tokens(start), self._backend.info.context
        if length >= context:
            self.reason = f"the prompt of problem {name} has {length} tokens, and the model reads {context}"
            return
        self._filling.ask(Asked(id=name, start=item.problem.messages, prompt_tokens=length))
        known = self._filling.known(name, self._seed, self._samples)
        self._count(len(known), new=0)
        if len(known) == self._samples:
            self._filling.complete(Complete(problem=name, seed=self._seed, samples=self._samples))
            return

        async def record(number: int, completion: Completion) -> None:
            self._filling.add(Drawn(problem=name, seed=self._seed, number=number, completion=completion))
            self._count(1, new=1)

        sampling = self._filling.manifest.sampling
        seed = job_seed(item, self._seed)
        pool = Pool(self._backend, seed, self._samples, known, record)
        try:
            result = await solve(
                item.problem,
                SelfConsistency(n=self._samples),
                {"policy": pool},
                budget=Budget(tokens=self._samples * sampling.max_tokens + FINISHER_TOKENS),
                sampling=sampling,
                seed=seed,
            )
            notes = result.notes
        except NoSamples as error:
            notes = (str(error),)
        if len(pool.known) == self._samples:
            self._filling.complete(Complete(problem=name, seed=self._seed, samples=self._samples))
        else:
            self.reason = self.reason or "; ".join(notes)

    def _count(self, samples: int, new: int) -> None:
        self.done += samples
        self._new += new
        self._observe(self.done, self._new)
