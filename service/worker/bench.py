"""Models that are open, and one job worked on with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from service.catalog import Catalog
from service.options import check_flops, models_of, open_backend, prices_of
from service.outcome import Alternative, Outcome, anonymous
from service.settings import Settings
from service.spec import Spec, State
from tts.answers import Code, Runner
from tts.backends.base import Backend, Connected, health
from tts.cost import Price
from tts.errors import BackendError, NoImages, NoSamples, TTSError, UsageError
from tts.halt import Halt
from tts.journal import Journal, Record
from tts.sandbox import Sandbox
from tts.solve import candidates, solve
from tts.strategy import Strategy, Verifier
from tts.types import Problem, Result, Role

log = logging.getLogger("tts.worker")
AGAIN, LONGEST = 0.5, 30.0
"""Seconds between two attempts at a model that does not answer, and until its jobs are told so."""


class Ended(NamedTuple):
    """How a job ended, and what went wrong if something did."""

    state: State
    outcome: Outcome | None
    error: dict[str, str] | None


class Bench:
    """Opens each model once, when it is first needed, and works on jobs with them."""

    def __init__(self, settings: Settings, catalog: Catalog, open: Callable[[str], Backend] = open_backend) -> None:
        self._settings, self._catalog, self._open = settings, catalog, open
        self._opened: dict[str, Backend] = {}
        self._opening = asyncio.Lock()
        self._prices: dict[tuple[str, ...], dict[str, Price]] = {}
        self._sandbox: Runner | None = None

    async def aclose(self) -> None:
        """Let go of all connections."""
        for backend in self._opened.values():
            if isinstance(backend, Connected):
                await backend.aclose()

    async def work(
        self, spec: Spec, journal: Journal, halt: Halt, observe: Callable[[Record], None] | None = None
    ) -> Ended:
        """Bring a job to its end, and show `observe` all that is new. What it cannot do is how it ended; only what
        nobody foresaw is raised."""
        try:
            strategy = self._catalog.strategy(spec.strategy)
            verifier = self._catalog.verifier(spec.model, spec.verifier)
            models = await self._models(spec, strategy, verifier)
            check_flops(spec.budget.flops is not None, models.values())
            result = await solve(
                spec.problem,
                strategy,
                models,
                budget=spec.budget,
                scorer=verifier,
                sampling=spec.sampling,
                prices=self._priced(spec, models),
                seed=spec.seed,
                journal=journal,
                halt=halt,
                observe=observe,
                runner=await self._runner(spec.problem, verifier),
                job=spec.id,
            )
        except NoSamples as error:
            log.warning("job %s: %s", spec.id, error)
            return Ended(
                "failed", Outcome.of(error.result, spec.strategy.name, hidden=True), _error("no_samples", error)
            )
        except UsageError as error:
            code = "no_images" if isinstance(error, NoImages) else "cannot_be_done"
            return Ended("failed", None, _error(code, error))
        except BackendError as error:
            log.warning("job %s: %s", spec.id, error)
            return Ended("failed", None, _error("model_unavailable", error))
        others = alternatives(spec, result, await journal.read()) if spec.answers > 1 else ()
        state: State = "cancelled" if result.stop == "cancelled" else "done"
        return Ended(state, Outcome.of(result, spec.strategy.name, others, hidden=True), None)

    async def health(self) -> dict[str, dict[str, tuple[bool, int | None]]]:
        """Of each replica of the models that are open, whether it answers, and how many tokens it holds."""
        models = tuple(self._opened.values())
        told = await asyncio.gather(*map(health, models))
        found: dict[str, dict[str, tuple[bool, int | None]]] = {}
        for model, replicas in zip(models, told, strict=True):
            places = found.setdefault(model.info.name, {})
            places.update({_place(name): (each.up, each.resident) for name, each in replicas.items()})
        return found

    async def warm(self, name: str) -> None:
        """Open a model before a job needs it; whoever needs one that cannot be opened is told why."""
        try:
            await self._model(name)
        except TTSError as error:
            log.warning("the model %s: %s", name, error)

    async def _models(self, spec: Spec, strategy: Strategy, verifier: Verifier) -> dict[Role, Backend]:
        readers = {each for part in (strategy, verifier) if (each := getattr(part, "model", ""))}
        for name in (spec.model, *sorted(readers)):
            await self._model(name)
        return {"policy": self._opened[spec.model], **models_of(strategy, verifier, self._opened)}

    async def _model(self, name: str) -> Backend:
        """A model by its name; one that does not answer is asked for a while."""
        if name in self._opened:
            return self._opened[name]
        async with self._opening:
            loop = asyncio.get_running_loop()
            end = loop.time() + LONGEST
            while name not in self._opened:
                try:
                    self._opened[name] = await asyncio.to_thread(self._open, self._catalog.address(name))
                except BackendError:
                    if loop.time() > end:
                        raise
                    await asyncio.sleep(AGAIN)
        return self._opened[name]

    def _priced(self, spec: Spec, models: dict[Role, Backend]) -> dict[str, Price]:
        used = list(models.values())
        key = (spec.model, *(model.info.name for model in used))
        if key not in self._prices:
            asked = {self._catalog.address(name): model for name, model in self._opened.items() if model in used}
            self._prices[key] = prices_of(None, used, self._catalog.address(spec.model), asked)
        return self._prices[key]

    async def _runner(self, problem: Problem, verifier: Verifier) -> Runner | None:
        """The sandbox, where programs are to be run and a deployment allows it."""
        kind = problem.kind
        runs = isinstance(kind, Code) and ("runner" in verifier.needs or kind.tests or kind.inputs)
        if not (runs and self._settings.sandbox):
            return None
        if self._sandbox is None:  # trying it takes seconds, in which the heartbeat must go on
            self._sandbox = await asyncio.to_thread(Sandbox().checked)
        return self._sandbox


def alternatives(spec: Spec, result: Result, records: list[Record]) -> tuple[Alternative, ...]:
    """Up to as many other answers as are wanted, those with most votes first, each with the first text that holds it.
    Texts that cannot be voted on are each an answer of their own."""
    kind, best = spec.problem.kind, result.answer
    texts: dict[str, str] = {}
    for path in candidates(spec.problem, records):
        answer = kind.extract(path.text, path.finished)
        if answer is not None:
            texts.setdefault(answer, path.text)
    ranked = [vote.answer for vote in best.votes] if best and best.votes else list(texts)
    others = [answer for answer in ranked if answer in texts and (best is None or answer != best.text)]
    return tuple(Alternative(answer=answer, text=texts[answer]) for answer in others[: spec.answers - 1])


def _place(name: str) -> str:
    """Where a replica is, without what its address may hold beside."""
    return urlsplit(name).netloc.rpartition("@")[2] or name


def _error(code: str, error: Exception) -> dict[str, str]:
    return {"code": code, "detail": anonymous(str(error))}
