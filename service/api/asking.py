"""From what a caller asks to what a worker is told. What cannot be done is refused here, as far as it can be known."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from service.api.chat import ChatRequest
from service.api.problems import Fault
from service.api.schemas import BatchRequest, Drawn, JobRequest, Manner, Question
from service.catalog import Catalog
from service.options import asked_by_profile, assignment, checked, parted
from service.settings import Settings
from service.spec import Part, Spec
from strategies import STRATEGIES
from strategies.tree import StepSearch
from tts.answers import AnswerKind, kind_from
from tts.cost import one_line
from tts.errors import UsageError, counted
from tts.job import check_votes
from tts.profile import Mode, Profile
from tts.types import Budget, Problem, Sampling, digest


class Asking:
    """Knows the models of a deployment, and what it allows."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings, self._catalog = settings, catalog

    @property
    def models(self) -> list[str]:
        """What callers may name."""
        return self._catalog.names

    def job(self, asked: JobRequest) -> Spec:
        """One job."""
        return self.spec(asked.question(), asked, self.budget(asked))

    def batch(self, asked: BatchRequest) -> tuple[list[Spec], Budget]:
        """The jobs of a batch, and the budget that they share."""
        if len(asked.problems) > self._settings.most_problems:
            raise UsageError(f"a batch has {self._settings.most_problems} problems at most; send several")
        budget = self.budget(asked)
        if budget.tokens is not None and budget.tokens < len(asked.problems):
            raise UsageError(f"{counted(budget.tokens, 'token')} are not enough for {len(asked.problems)} problems")
        return [self.spec(posed.question(), asked, budget) for posed in asked.problems], budget

    def budget(self, manner: Manner) -> Budget:
        """What was asked for, else what the model's profile says, else what the deployment does."""
        found = self._found(self._catalog.meant(manner.model))
        own = found[0].budget if found else None
        budget = manner.budget.budget() if manner.budget else own or Budget(tokens=self._settings.default_tokens)
        return self.bounded(budget)

    def bounded(self, budget: Budget) -> Budget:
        """A budget that this deployment allows."""
        most = self._settings
        if (budget.tokens or 0) > most.most_tokens:
            raise UsageError(f"a job may generate {most.most_tokens:,} tokens at most here, not {budget.tokens:,}")
        if (budget.seconds or 0) > most.most_seconds:
            raise UsageError(f"a job may take {most.most_seconds:,} seconds at most here, not {budget.seconds:,.0f}")
        return budget

    def spec(self, question: Question, manner: Manner, budget: Budget) -> Spec:
        """What a worker is told."""
        model = self._catalog.meant(manner.model)
        found = self._found(model)
        part = _part(manner.strategy) or _part(found[0].strategy if found else None) or Part(name="best_of_n")
        strategy = self._catalog.strategy(part)
        verifier = _part(manner.verifier)
        self._catalog.verifier(model, verifier)
        problem = _problem(question)
        explicit = {"step_end"} if manner.step_end else set()
        if manner.step_end:
            problem = problem.model_copy(update={"step_end": manner.step_end})
        problem = asked_by_profile(found, problem, strategy, explicit)
        check_votes(strategy, problem)
        return Spec(
            id="job_" + secrets.token_hex(10),
            problem=problem,
            model=model,
            strategy=part,
            verifier=verifier,
            budget=budget,
            sampling=self._sampling(manner.sampling, model),
            seed=manner.seed,
            metadata=manner.metadata,
        )

    def chat(self, asked: ChatRequest) -> Spec:
        """A chat completion as a job: `model` is NAME, NAME:MODE, NAME:STRATEGY or NAME:MODE:STRATEGY."""
        manner, strategy = asked.manner(), None
        if asked.model:
            model, strategy = self._split(asked.model)
            manner = manner.model_copy(update={"model": model})
        if strategy is not None:
            manner = manner.model_copy(update={"strategy": strategy})
        spec = self.spec(asked.question(), manner, self.budget(manner))
        held = asked.held()
        if held and isinstance(self._catalog.strategy(spec.strategy), StepSearch):
            raise UsageError(
                f"response_format and tools hold whole samples, and {spec.strategy.name} searches over steps"
            )
        found = self._found(spec.model)
        drawn = {**held, "thinks": bool(found and found[1].thinks)} if held else {}
        return spec.model_copy(update={"answers": asked.n or 1, "sampling": spec.sampling.model_copy(update=drawn)})

    def _split(self, name: str) -> tuple[str, str | None]:
        """A model and a strategy, where one is named after it."""
        model, _, last = name.rpartition(":")
        if not model or last not in STRATEGIES:
            try:
                self._catalog.found(self._catalog.meant(name))
            except UsageError as error:
                said = f"{error}; after its name come a mode or a strategy: {', '.join(STRATEGIES)}"
                raise Fault(404, "no_model", said) from error
            return name, None
        return model, last

    def _found(self, name: str) -> tuple[Profile, Mode] | None:
        """The profile and mode of a model. Raises `Fault` where there is no such model."""
        try:
            return self._catalog.found(name)
        except UsageError as error:
            raise Fault(404, "no_model", str(error)) from error

    def _sampling(self, drawn: Drawn, model: str) -> Sampling:
        found = self._found(model)
        own: dict[str, Any] = dict(found[1].drawn) if found else {}
        return checked(Sampling, {**own, **drawn.model_dump(exclude_none=True)})

    def known(self, name: str) -> None:
        """Raises `Fault`, with the nearest name, where a chat completion could not have this as its `model`."""
        model, _ = self._split(name)
        self._found(self._catalog.meant(model))


def _part(choice: str | Part | None) -> Part | None:
    """A strategy or verifier; of the short form the parameters are words, which become what they have to be."""
    if not isinstance(choice, str):
        return choice
    name, given = parted(choice)
    return Part(name=name, parameters=dict(assignment(name, each) for each in given))


def _kind(answer: str | dict[str, Any]) -> AnswerKind:
    try:
        return kind_from(answer)
    except ValidationError as error:
        raise UsageError(f"answer: {one_line(error)}") from error


def _problem(question: Question) -> Problem:
    """The conversation, its last turn with how to answer."""
    kind = _kind("text" if question.answer is None else question.answer)
    *before, last = question.messages
    how = kind.instruction if question.instruction is None else question.instruction
    if how and last.role == "user":
        last = last.model_copy(update={"content": f"{last.content}\n\n{how}"})
    messages = (*before, last)
    return Problem(id=digest(repr(messages)), messages=messages, kind=kind)


def by_prefix(specs: Sequence[Spec]) -> list[int]:
    """The order in which problems that begin alike come one after the other."""
    return sorted(range(len(specs)), key=lambda i: [message.content for message in specs[i].problem.messages])
