"""The seam between the door and an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from tts.halt import Halt
from tts.types import Completion, ModelInfo, Path, Sampling, Sheet, Verdicts

Watch = Callable[[Completion], bool]
"""A pure function of a completion so far; true ends it."""

Keep = Callable[[Completion], None]
"""Told what has been generated so far, from whatever thread."""

CHECKPOINT = 256
"""Tokens after which a backend says what it has generated: more than that is not lost of an engine that dies."""


@dataclass(frozen=True)
class Request:
    """Continue `path`, `prompt_tokens` long as the backend itself counts, by at most `max_tokens`.

    `id` is unique and no other id starts with it, so an engine can abort by it. `seed` decides the draw where
    the engine has seeds. `until` are the strings that end a step, kept in its text; `sampling.stop` are those
    that end the sample. When `halt` is set, the backend returns what it has within its `grace`. `keep` is told every
    `CHECKPOINT` tokens what there is so far, by backends that can continue a text.
    """

    id: str
    path: Path
    prompt_tokens: int
    max_tokens: int
    sampling: Sampling
    seed: int
    halt: Halt
    until: tuple[str, ...] = ()
    watch: Watch | None = None
    keep: Keep | None = None

    def __post_init__(self) -> None:
        assert self.max_tokens >= 1

    @property
    def job(self) -> str:
        """The job that asks. What one job costs must not depend on another one's having been there before."""
        return self.id.partition(":")[0]


@dataclass(frozen=True)
class Reading:
    """Read `sheet`, `prompt_tokens` long as the backend itself counts; `id` and `halt` as in a `Request`."""

    id: str
    sheet: Sheet
    prompt_tokens: int
    halt: Halt

    @property
    def job(self) -> str:
        return self.id.partition(":")[0]


class Backend(Protocol):
    """One model, served."""

    @property
    def info(self) -> ModelInfo: ...

    def prompt_tokens(self, path: Path) -> int:
        """The length of the path as a prompt, in tokens."""
        ...

    async def generate(self, request: Request) -> Completion:
        """At most `request.max_tokens` tokens. Raises `BackendError` with what the failure is known to cost.

        A completion with more tokens than that is treated as a failure, charged with the whole hold.
        """
        ...


@runtime_checkable
class Reader(Protocol):
    """What a backend with the capability `prefill_score` can do beside."""

    @property
    def info(self) -> ModelInfo: ...

    def sheet_tokens(self, sheet: Sheet) -> int:
        """The length of the sheet, in tokens. Raises `UsageError` where the model cannot be asked this."""
        ...

    async def read(self, reading: Reading) -> Verdicts:
        """Raises `BackendError` with what the failure is known to cost."""
        ...


@runtime_checkable
class Connected(Protocol):
    """A backend that holds connections open, in the event loop in which it was used last."""

    async def aclose(self) -> None:
        """Let go of them."""
        ...


@runtime_checkable
class Aborter(Protocol):
    """A backend whose engine outlives this process, and can be told to let go of what it does for it."""

    async def abort(self, id: str) -> None:
        """End whatever still goes on under the id of a `Request`; nothing where nothing does."""
        ...


class Health(NamedTuple):
    """Whether a model, or one of its replicas, can be asked, and how many tokens lie in its KV cache, where it says."""

    up: bool
    resident: int | None = None


@runtime_checkable
class Examined(Protocol):
    """A backend that knows how its model, or each of its replicas, is."""

    async def health(self) -> Mapping[str, Health]:
        """By address or other name. Takes some seconds at most, however they are."""
        ...


async def health(backend: Backend) -> Mapping[str, Health]:
    """How a backend's model is, as far as it knows."""
    if isinstance(backend, Examined):
        return await backend.health()
    return {"model": Health(up=gone(backend) is None)}


def dies_with_us(backend: Backend) -> bool:
    """Whether the engine is in this process, and says so with `in_process = True`."""
    return bool(getattr(backend, "in_process", False))


def is_virtual(backend: Backend) -> bool:
    """Whether a backend only remembers how long things took, and says so with `virtual = True`: it is to be run in
    virtual time, its samples are shared already, and its jobs are not resumed but run again."""
    return bool(getattr(backend, "virtual", False))


def gone(backend: Backend) -> str | None:
    """Why nobody can be asked any more, where a backend knows and says so in `gone`: what comes next will fail."""
    told: str | None = getattr(backend, "gone", None)
    return told
