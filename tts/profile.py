"""Profiles: what a deployment says of its models in `tts.toml`, so that nobody else has to."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import Annotated

from pydantic import Field, PositiveInt, ValidationError, model_validator

from tts.cost import Price, one_line
from tts.errors import UsageError, unknown
from tts.types import Budget, Message, Noun, Problem


class Mode(Noun):
    """One way of talking to a model: how samples are drawn, what its chat template is told, whether it thinks first."""

    temperature: Annotated[float, Field(ge=0.0, le=10.0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    max_tokens: PositiveInt | None = None
    template: dict[str, bool | int | str] = Field(default_factory=dict)
    """Variables of the chat template, such as `enable_thinking = false`."""
    thinks: bool = False

    @property
    def drawn(self) -> dict[str, float]:
        """How samples are drawn, as far as it says."""
        return self.model_dump(include={"temperature", "top_p", "max_tokens"}, exclude_none=True)


class Profile(Noun):
    """A model: where it is served, how its texts are spelled and read, what it costs, and how it is used by default.

    `strategy` and `verifier` are written as on the command line. `think_end` ends the thinking of modes that think:
    answers are what comes after it, and it is taken out of earlier turns together with what was thought. Without a
    `mode`, the only one is meant, or the one called `plain`.
    """

    backend: Annotated[str, Field(min_length=1)]
    name: str | None = None
    tokenizer: File | None = None
    chat_template: File | None = None
    context: PositiveInt | None = None
    parameters: PositiveInt | None = None
    api_key_env: str | None = None
    """The environment variable that holds the server's key; a key itself does not belong in a file."""
    think_end: Annotated[str, Field(min_length=1)] = "</think>"
    mode: str = ""
    modes: dict[str, Mode] = Field(default_factory=lambda: {"plain": Mode()})
    price: Price | None = None
    strategy: str | None = None
    verifier: str | None = None
    budget: Budget | None = None
    step_end: Annotated[str, Field(min_length=1)] | None = None
    """What ends a step; without it, nothing says where the steps of free thinking end."""

    @model_validator(mode="after")
    def _knows_its_mode(self) -> Profile:
        if self.mode and self.mode not in self.modes:
            raise ValueError(f"its mode {self.mode!r} is none of its modes: {', '.join(self.modes)}")
        if not self.usual:
            raise ValueError(
                f'it does not say which of its modes is the usual one ({", ".join(self.modes)}): mode = "…"'
            )
        return self

    @property
    def usual(self) -> str:
        """The mode that is meant where nobody names one."""
        return self.mode or ("plain" if "plain" in self.modes else "".join(self.modes) * (len(self.modes) == 1))

    def chosen(self, mode: str) -> Mode:
        """The mode of that name; the usual one where none is named."""
        if mode and mode not in self.modes:
            raise unknown("mode", mode, self.modes)
        return self.modes[mode or self.usual]

    def asked(self, problem: Problem, mode: Mode) -> Problem:
        """The problem as this model is asked it: earlier turns without their thoughts, answers after its own."""
        changes: dict[str, object] = {"messages": spoken(problem.messages, self.think_end)}
        if mode.thinks:
            changes["kind"] = problem.kind.model_copy(update={"after": self.think_end})
        return problem.model_copy(update=changes)

    def check_steps(self, mode: Mode, by_steps: bool, explicit: bool) -> None:
        """Refuse a search over the steps of free thinking where nobody has said what a step is."""
        if by_steps and mode.thinks and not explicit and self.step_end is None:
            raise UsageError(
                "this mode thinks freely, and nobody says where a step of a thought ends: give --step-end, or step_end "
                "in the profile; or choose a mode that does not think, or a strategy over whole samples"
            )


PARTS: Mapping[str, type[Noun]] = {"modes": Mode, "budget": Budget, "price": Price}
"""The fields of a profile that have fields."""
UNTAKEN = ("top_k", "min_p")
"""What servers know and we do not: a sample would not be drawn the same way by all backends."""


def spoken(messages: Sequence[Message], think_end: str) -> tuple[Message, ...]:
    """A conversation without what the assistant thought in earlier turns."""
    return tuple(
        message.model_copy(update={"content": message.content.rpartition(think_end)[2].lstrip("\n")})
        if message.role == "assistant" and think_end in message.content
        else message
        for message in messages
    )


def read_profiles(file: File) -> dict[str, Profile]:
    """The models of a `tts.toml`: a table `[models.NAME]` each. Raises `UsageError` for what cannot be read."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        unexpected = tables.keys() - {"models"}
        if unexpected:
            raise UsageError(f"{file}: it has tables [models.NAME] only, not [{min(unexpected)}]")
        return {name: _profile(file, name, table) for name, table in tables.get("models", {}).items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read the profiles in {file}: {one_line(error)}") from error


def _profile(file: File, name: str, table: object) -> Profile:
    try:
        return Profile.model_validate(table)
    except ValidationError as error:
        raise UsageError(f"{file}, [models.{name}]: {_wrong(error)}") from error


def _wrong(error: ValidationError) -> str:
    """The first thing that is wrong with a profile; of a field that nobody knows, the nearest that somebody does."""
    first = error.errors()[0]
    if first["type"] != "extra_forbidden":
        return one_line(error).replace("Value error, ", "")
    *outer, field = map(str, first["loc"])
    if field in UNTAKEN:
        return (
            f"{'.'.join([*outer, field])} is not taken: samples are drawn by temperature and top_p alone; leave it out"
        )
    owner = PARTS.get(outer[0], Profile) if outer else Profile
    return f"{unknown('field', '.'.join([*outer, field]), ['.'.join([*outer, each]) for each in owner.model_fields])}"
