"""From words on a command line to nouns, with one clear line for whatever is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Container, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, TypeVar

import click
from pydantic import BaseModel, ValidationError

import evals.suites  # noqa: F401  their tasks register answer kinds of their own
from service.opening import bank, opened
from strategies import STRATEGIES
from strategies.tree import StepSearch
from tts.answers import AnswerKind, kind_from
from tts.backends.base import Backend, Connected, is_virtual
from tts.clock import run_virtual
from tts.cost import Price, one_line, read_prices
from tts.errors import UsageError, unknown
from tts.profile import Mode, Profile, read_profiles
from tts.strategy import Strategy, Verifier
from tts.types import Problem, Role
from verifiers import VERIFIERS

if TYPE_CHECKING:
    from tts.bank import Bank

USUAL_VERIFIER = "confidence"
NOBODY: Mapping[str, Backend] = {}
T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


class Variadic(click.Command):
    """A command whose repeatable options take several values after one name: `--tokens 250 500 1000`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        several = {name for p in self.params if isinstance(p, click.Option) and p.multiple for name in p.opts}
        spread: list[str] = []
        current, fresh = None, False
        for arg in args:
            if arg.startswith("-"):
                current, fresh = (arg if arg in several else None), True
            elif current is not None:
                spread += [] if fresh else [current]
                fresh = False
            spread.append(arg)
        return super().parse_args(ctx, spread)


def build(known: Mapping[str, type[Model]], noun: str, name: str, params: Sequence[str]) -> Model:
    """A strategy or verifier from its name and `NAME=VALUE` parameters."""
    return made(known, noun, name, dict(assignment(noun, param) for param in params))


def made(known: Mapping[str, type[Model]], noun: str, name: str, values: Mapping[str, Any]) -> Model:
    """A strategy or verifier from its name and the values of its parameters."""
    if name not in known:
        raise unknown(noun, name, known)
    for parameter in values:
        if parameter not in known[name].model_fields:
            raise unknown(f"parameter of {name}", parameter, known[name].model_fields)
    return checked(known[name], values)


def checked(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Validated values; the first thing wrong with them in one line."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        given = f", not {first['input']!r}" if first["loc"] else ""
        raise UsageError(one_line(error) + given) from error


def ask(text: str, kind_name: str, instruction: str | None, step_end: str) -> Problem:
    """The problem as one user message, with the kind's instruction or the caller's own; its steps end with `step_end`,
    in which \\n is a line end."""
    words = _readable(sys.stdin.buffer.read() if text == "-" else text.encode(errors="surrogateescape"))
    kind = _kind(kind_name)
    if not step_end:
        raise UsageError("--step-end is empty; name what ends a step, such as \\n\\n")
    problem = Problem.ask(words, kind, instruction)
    return problem.model_copy(update={"step_end": step_end.replace("\\n", "\n")})


def profile_of(name: str) -> tuple[Profile, Mode] | None:
    """The profile and mode that `--backend NAME[:MODE]` names, if there is such a profile."""
    model, _, mode = name.partition(":")
    profile = profiles().get(model)
    return (profile, profile.chosen(mode)) if profile else None


def with_defaults(options: Mapping[str, Any], explicit: Container[str]) -> dict[str, Any]:
    """The options of `tts solve`, where they were not given those of the profile that is used."""
    found = profile_of(options["backend_name"])
    if found is None:
        return dict(options)
    profile, mode = found
    usual = {"strategy": profile.strategy, "verifier": profile.verifier, **mode.drawn, **_budget(profile, explicit)}
    return {**options, **_ungiven(usual, explicit)}


def with_methods(options: Mapping[str, Any], explicit: Container[str]) -> dict[str, Any]:
    """The options of `tts eval`, where they were not given those of the profile that is used; each unit of its budget
    is a budget."""
    found = profile_of(options["backend_name"] or "")
    if found is None:
        return dict(options)
    profile = found[0]
    strategies = (profile.strategy,) if profile.strategy else None
    budgets = {unit: (amount,) for unit, amount in _budget(profile, explicit).items()}
    return {**options, **_ungiven({"strategies": strategies, "verifier": profile.verifier, **budgets}, explicit)}


def _budget(profile: Profile, explicit: Container[str]) -> dict[str, Any]:
    """The profile's, by units, where none was given."""
    given = any(unit in explicit for unit in ("tokens", "seconds", "usd", "flops", "samples"))
    return profile.budget.model_dump(exclude_none=True) if profile.budget and not given else {}


def _ungiven(usual: Mapping[str, Any], explicit: Container[str]) -> dict[str, Any]:
    return {name: value for name, value in usual.items() if value is not None and name not in explicit}


def profiles() -> dict[str, Profile]:
    """Those of the file that TTS_CONFIG names, or of `tts.toml` here."""
    named = os.environ.get("TTS_CONFIG")
    file = File(named or "tts.toml")
    return read_profiles(file) if named or file.is_file() else {}


def asked_by_profile(
    found: tuple[Profile, Mode] | None, problem: Problem, strategy: Strategy, explicit: Container[str]
) -> Problem:
    """The problem as the profile's model is asked it; unchanged where there is no profile."""
    if found is None:
        return problem
    profile, mode = found
    profile.check_steps(mode, isinstance(strategy, StepSearch), "step_end" in explicit)
    ended = {"step_end": profile.step_end} if profile.step_end and "step_end" not in explicit else {}
    return profile.asked(problem, mode).model_copy(update=ended)


def spelled_out(name: str) -> tuple[str, str, dict[str, Any]]:
    """The kind of a backend, what it is of, and its settings: a profile's, or those of one that is written out."""
    found = profile_of(name)
    if found is None:
        scheme, _, rest = name.partition(":")
        return scheme, rest, {}
    profile, mode = found
    scheme, _, rest = profile.backend.partition(":")
    return scheme, rest, _settings(scheme, profile, mode)


def _settings(scheme: str, profile: Profile, mode: Mode) -> dict[str, Any]:
    """What a profile says. What a kind of backend cannot be told is refused, not dropped."""
    spelled = {"template": _template(profile), "variables": mode.template or None}
    given: dict[str, Any] = {
        "name": profile.name,
        "tokenizer": profile.tokenizer,
        "context": profile.context,
        "parameters": profile.parameters,
        "api_key": _key(profile),
        **spelled,
    }
    known = {"sglang": set(given), "local": set(spelled), "litellm": {"context", "parameters"}}
    settings = {name: value for name, value in given.items() if value is not None}
    if surplus := settings.keys() - known.get(scheme, set()):
        raise UsageError(f"the profile's {min(surplus)} means nothing to a {scheme} backend; leave it out")
    return settings


def _template(profile: Profile) -> str | None:
    """The chat template that is used instead of the model's own."""
    try:
        return profile.chat_template.read_text(encoding="utf-8") if profile.chat_template else None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the profile's chat_template {profile.chat_template}: {one_line(error)}"
        ) from error


def _key(profile: Profile) -> str | None:
    """The server's key."""
    if profile.api_key_env and not os.environ.get(profile.api_key_env):
        raise UsageError(f"the profile's api_key_env names {profile.api_key_env}, and the environment has none; set it")
    return os.environ[profile.api_key_env] if profile.api_key_env else None


def open_backend(name: str) -> Backend:
    """The backend that `--backend` names."""
    return opened(*spelled_out(name), profiles())


def prices_of(
    file: File | None, models: Iterable[Backend], policy: str, readers: Mapping[str, Backend] = NOBODY
) -> dict[str, Price]:
    """The table's prices, and for models that are not in it those of their profiles or of their providers. `policy`
    names the first of the models, and `readers` are others by their names."""
    listed = {model.info.name: getattr(model, "price", None) for model in models}
    named = [*((name, reader.info.name) for name, reader in readers.items()), (policy, next(iter(listed)))]
    for name, model in named:
        if (found := profile_of(name)) and found[0].price:
            listed[model] = found[0].price
    asked = {name: price for name, price in listed.items() if price is not None}
    return {**asked, **(read_prices(file) if file else {})}


def check_flops(budgeted: bool, models: Iterable[Backend]) -> None:
    """Refuse a budget in FLOPs for a model of which nobody knows how large it is."""
    for model in models:
        if budgeted and getattr(model, "parameters", 1) is None:
            raise UsageError(
                f"nobody knows the FLOPs of {model.info.name}; give a budget in tokens, seconds or dollars"
            )


def strategy_of(spec: str, params: Sequence[str] = ()) -> Strategy:
    """A strategy from `NAME[:PARAMETER=VALUE,…]` and more `NAME=VALUE` parameters, which go first."""
    name, given = parted(spec)
    strategy: Strategy = build(STRATEGIES, "strategy", name, [*given, *params])
    return strategy


def verifier_of(spec: str, params: Sequence[str], known: Mapping[str, type[Verifier]] = VERIFIERS) -> Verifier:
    """A verifier from `NAME[:PARAMETER=VALUE,…][@BACKEND]` and more `NAME=VALUE` parameters, which go first."""
    described, _, backend = spec.partition("@")
    name, given = parted(described)
    read_by = [f"model={backend}"] if backend else []
    return build(known, "verifier", name, [*given, *params, *read_by])


def parted(described: str) -> tuple[str, list[str]]:
    """The name and the parameters of `NAME[:PARAMETER=VALUE,…]`."""
    name, _, parameters = described.partition(":")
    return name, [each for each in parameters.split(",") if each]


def models_of(strategy: Strategy, verifier: Verifier, opened: dict[str, Backend]) -> dict[Role, Backend]:
    """The models that are asked beside the policy, by their roles; opened once for all who ask for the same."""
    askers: list[Strategy | Verifier] = [strategy]
    if "scores" in strategy.needs:
        askers.append(verifier)
    return {asker.reads: _reader(asker, opened) for asker in askers if asker.reads is not None}


def _reader(asker: Strategy | Verifier, opened: dict[str, Backend]) -> Backend:
    name = getattr(asker, "model", "")
    if not name:
        option = "--verifier-param" if isinstance(asker, Verifier) else "--param"
        raise UsageError(
            f"{asker.name} needs a model; name it: {option} model=local:DIR, or {asker.name}@local:DIR, or "
            f"{asker.name}@sglang:URL"
        )
    if name not in opened:
        opened[name] = open_backend(name)
    return opened[name]


def bank_behind(name: str) -> Bank | None:
    """The bank that `--backend` names, if it names one."""
    scheme, _, rest = name.partition(":")
    return bank(rest) if scheme == "bank" else None


def run_with(backends: Iterable[Backend], main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, and backends let go of their connections; in virtual time where one only remembers how long things
    took."""
    listed = list(backends)
    return run_virtual(main) if any(map(is_virtual, listed)) else asyncio.run(_closing(listed, main))


async def _closing(backends: Iterable[Backend], main: Coroutine[Any, Any, T]) -> T:
    try:
        return await main
    finally:
        for backend in backends:
            if isinstance(backend, Connected):
                await backend.aclose()


def _readable(data: bytes) -> str:
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UsageError(f"the problem is not UTF-8: {error.reason} at byte {error.start}") from error
    if not text:
        raise UsageError("the problem is empty")
    return text


def _kind(name: str) -> AnswerKind:
    try:
        return kind_from(json.loads(name) if name.startswith("{") else name)
    except ValidationError as error:
        raise UsageError(f"--answer {one_line(error)}") from error
    except ValueError as error:
        raise UsageError(f"--answer is not JSON: {error}") from error


def assignment(noun: str, param: str) -> tuple[str, str]:
    """The two sides of `NAME=VALUE`."""
    name, equals, value = param.partition("=")
    if not equals:
        raise UsageError(f"a {noun}'s parameter is given as NAME=VALUE, not {param!r}")
    return name, value
