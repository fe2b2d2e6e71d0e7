"""A journal read back: the same program, answered by what was recorded, and no model anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as File
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tts.backends.base import Reading, Request
from tts.cost import one_line
from tts.errors import JournalError, JournalMismatch, UsageError, unknown
from tts.journal import Ended, Header, MemoryJournal, Named, parse
from tts.solve import solve
from tts.strategy import Strategy, Verifier
from tts.types import Completion, ModelInfo, Path, Result, Sheet, Verdicts

Part = TypeVar("Part", bound=BaseModel)


class Recorded:
    """A backend that only remembers who it was."""

    def __init__(self, info: ModelInfo) -> None:
        self.info = info

    def prompt_tokens(self, path: Path) -> int:
        return 0

    def sheet_tokens(self, sheet: Sheet) -> int:
        return 0

    async def generate(self, request: Request) -> Completion:
        raise JournalMismatch(f"the strategy asks for {request.id}, which the journal does not hold")

    async def read(self, reading: Reading) -> Verdicts:
        raise JournalMismatch(f"the verifier asks for {reading.id}, which the journal does not hold")


class Sandboxed:
    """A sandbox that is only known by its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def __call__(self, program: str, given: str) -> str | None:
        raise JournalMismatch("a program would have to be run, and the journal does not hold what came of it")


async def replay_file(
    file: File, strategies: Mapping[str, type[Strategy]], verifiers: Mapping[str, type[Verifier]]
) -> tuple[Result, Header]:
    """The result of the finished job in `file`. Nothing is written to it."""
    try:
        records, _ = parse(file.read_bytes(), file)
    except OSError as error:
        raise JournalError(f"cannot read the journal {file}: {error.strerror}") from error
    if not records or not isinstance(header := records[0], Header):
        raise JournalError(f"{file} is not a journal: its first record is no header")
    if not any(isinstance(record, Ended) for record in records):
        raise UsageError(f"the job in {file} did not end; run its command again with --journal {file} to complete it")
    result = await solve(
        header.problem,
        _rebuilt(strategies, "strategy", header.strategy),
        {role: Recorded(info) for role, info in header.models.items()},
        scorer=_rebuilt(verifiers, "verifier", header.scorer) if header.scorer else None,
        budget=header.budget,
        sampling=header.sampling,
        prices=header.prices,
        seed=header.seed,
        journal=MemoryJournal(records),
        runner=Sandboxed(header.runner) if header.runner else None,
    )
    return result, header


def _rebuilt(known: Mapping[str, type[Part]], noun: str, named: Named) -> Part:
    if named.name not in known:
        raise unknown(noun, named.name, known)
    try:
        return known[named.name].model_validate(named.parameters)
    except ValidationError as error:
        raise JournalError(f"this version's {named.name} has other parameters: {one_line(error)}") from error
