"""The models of a deployment by the names that callers use. Callers name no addresses, and see none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.opening import KINDS
from service.options import checked, made, profiles, strategy_of, verifier_of
from service.settings import Settings
from service.spec import Part
from strategies import STRATEGIES
from tts.errors import UsageError, unknown
from tts.profile import Mode, Profile
from tts.strategy import Strategy, Verifier
from verifiers import VERIFIERS

OWN = "own"
"""Ends the name of the model that reads for a profile's own verifier: its address stays in `tts.toml`."""


class Catalog:
    """What `tts.toml` says, read once, and the model that is meant where none is named."""

    def __init__(self, settings: Settings) -> None:
        self._profiles = profiles()
        default = settings.default_model
        self.default = default if default.partition(":")[0] in self._profiles else "default"
        self._addresses = {"default": default} if self.default == "default" else {}
        scheme = default.partition(":")[0]
        if self._addresses and scheme not in KINDS:
            raise unknown("model in TTS_DEFAULT_MODEL", default, [*self._profiles, *KINDS])

    def check(self) -> None:
        """Refuse, before anything is served, what no request could use."""
        for name, profile in self._profiles.items():
            try:
                strategy_of(profile.strategy or "best_of_n", ())
                self.verifier(name, None)
            except UsageError as error:
                raise UsageError(f"[models.{name}] of the profiles: {error}") from error
        self.found(self.default)

    def meant(self, name: str | None) -> str:
        """The model that a request means: `default` is whichever is the usual one."""
        model, colon, rest = (name or "default").partition(":")
        return f"{self.default}{colon}{rest}" if model == "default" else f"{model}{colon}{rest}"

    @property
    def names(self) -> list[str]:
        return [*self._addresses, *self._profiles]

    def found(self, name: str) -> tuple[Profile, Mode] | None:
        """The profile and mode of a model; None for one that has no profile. Raises `UsageError` for an unknown one."""
        model, _, mode = name.partition(":")
        if model in self._profiles:
            return self._profiles[model], self._profiles[model].chosen(mode)
        if name not in self._addresses:
            raise unknown("model", name, self.names)
        return None

    def address(self, name: str) -> str:
        """The backend of a model, as --backend names it."""
        if name.endswith(f"/{OWN}"):
            return self._own(name.removesuffix(f"/{OWN}"))[2]
        self.found(name)
        return self._addresses.get(name, name)

    def strategy(self, part: Part) -> Strategy:
        """A strategy as data; the model that it may name is one of ours."""
        built: Strategy = self._built(STRATEGIES, "strategy", part)
        return built

    def verifier(self, model: str, part: Part | None) -> Verifier:
        """The verifier that is asked for, else that of the model's profile, else the model's own confidence."""
        if part is not None:
            built: Verifier = self._built(VERIFIERS, "verifier", part)
            return built
        verifier, parameters, address = self._own(model)
        own = {"model": f"{model}/{OWN}"} if address else {}
        return checked(VERIFIERS[verifier], {**parameters, **own})

    def _own(self, model: str) -> tuple[str, dict[str, Any], str]:
        """The verifier of a model's profile: its name, its parameters, and the backend of its model."""
        found = self.found(model)
        if found is None or not found[0].verifier:
            return "confidence", {}, ""
        own = verifier_of(found[0].verifier, ())
        parameters = own.model_dump(mode="json")
        return own.name, parameters, parameters.pop("model", "")

    def _built(self, known: Mapping[str, type[Any]], noun: str, part: Part) -> Any:
        built = made(known, noun, part.name, part.parameters)
        if model := part.parameters.get("model"):
            self.found(model)
        return built
