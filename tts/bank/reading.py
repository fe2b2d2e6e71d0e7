"""A bank, opened to be read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path as File
from typing import Any, NamedTuple

from pydantic import ValidationError

from tts.bank.nouns import (
    COMPLETE,
    FILLING,
    MANIFEST,
    PROBLEMS,
    SAMPLES,
    SCORES,
    TOKENIZER,
    VERIFIER,
    Asked,
    Complete,
    Drawn,
    Manifest,
)
from tts.bank.tables import KEY, SAMPLE_COLUMNS, Place, as_row, joined, places_in, sample_of
from tts.cost import one_line
from tts.errors import UsageError, counted
from tts.lines import N, read_lines
from tts.types import ModelInfo


class Reading(NamedTuple):
    """What a verifier said of the steps of each of a problem's samples, by seed and number, and the model that read."""

    model: ModelInfo
    steps: dict[tuple[int, int], list[float]]


class Bank:
    """A folder of samples, opened to be read. A problem's samples are read when they are asked for."""

    def __init__(self, folder: File) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.problems = {each.id: each for each in read_lines(folder / PROBLEMS, Asked)}
        self._loose = defaultdict[str, dict[tuple[int, int], Drawn]](dict)
        for each in _lines(folder / FILLING, Drawn):  # before the tables, into which a filling may be moving them
            self._loose[each.problem][each.seed, each.number] = each
        self._complete = defaultdict[str, dict[int, int]](dict)
        for line in _lines(folder / COMPLETE, Complete):
            seeds = self._complete[line.problem]
            seeds[line.seed] = max(line.samples, seeds.get(line.seed, 0))
        self._places = places_in(folder / SAMPLES, self.manifest.fingerprint)
        if strange := (self._places.keys() | self._loose.keys()) - self.problems.keys():
            lacking = counted(len(strange), "problem")
            raise UsageError(f"{folder / PROBLEMS} is damaged: it lacks {lacking} of which there are samples")
        self.lacking = {each: n for each in self.problems if (n := self._lacking(each)) > 0}
        """Problems of which samples are gone that were there, and how many at least."""
        self._scores: dict[str, tuple[ModelInfo, Mapping[str, list[Place]]]] = {}

    def _lacking(self, problem: str) -> int:
        there = sum(place.rows for place in self._places.get(problem, ())) + len(self._loose.get(problem, ()))
        return sum(self._complete[problem].values()) - there

    def check_whole(self) -> None:
        """Refuse a bank that says of samples that they are there when they are gone."""
        if self.lacking:
            gone, problems = sum(self.lacking.values()), counted(len(self.lacking), "problem")
            most = max(sum(seeds.values()) for seeds in self._complete.values())
            raise UsageError(
                f"{self.folder} has lost {counted(gone, 'sample')} of {problems}: a file in {SAMPLES} is gone; draw "
                f"them again with {self.refill(len(self.problems), most)}"
            )

    def refill(self, limit: int, samples: int) -> str:
        """The command that draws what so many samples of so many problems lack."""
        source = self.manifest.source
        data = f" --data {source.data.partition(',')[0]}" if source.data else f" --split {source.split}"
        return f"tts bank fill {source.suite}{data} --limit {limit} --samples {samples} --out {self.folder}"

    @cached_property
    def by_origin(self) -> dict[str, Asked]:
        """The problems by the fingerprint of their prompt."""
        return {each.origin: each for each in self.problems.values()}

    @cached_property
    def verifiers(self) -> list[str]:
        """The verifiers whose scores are here."""
        return sorted(each.name for each in (self.folder / SCORES).glob("*") if each.is_dir())

    def counts(self) -> dict[str, int]:
        """How many samples there are of each problem; none where its filling has not come to an end."""
        return {problem: sum(self._complete[problem].values()) for problem in self.problems}

    def unfinished(self) -> int:
        """How many samples wait for slower ones of the same filling."""
        recorded = sum(len(self.rows(problem, unfinished=True)[0]) for problem in self.problems)
        return recorded - sum(self.counts().values())

    @property
    def finished(self) -> list[Complete]:
        """Of which problems and seeds so many first samples are all there."""
        return [
            Complete(problem=problem, seed=seed, samples=samples)
            for problem, seeds in self._complete.items()
            for seed, samples in seeds.items()
        ]

    def tokens(self, *, unfinished: bool = False) -> int:
        """All generated tokens; with those of an interrupted filling if they are asked for."""
        return sum(sum(self.rows(name, "tokens", unfinished=unfinished)[1]["tokens"]) for name in self.problems)

    def rows(
        self, problem: str, *columns: str, unfinished: bool = False
    ) -> tuple[list[tuple[int, int]], dict[str, list[Any]]]:
        """Seed and number of each of a problem's samples, in this order, and some columns of them; with those of an
        interrupted filling if they are asked for."""
        loose = map(as_row, self._loose.get(problem, {}).values())
        keys, found = joined(self._places.get(problem, ()), columns, list(loose))
        seeds = self._complete[problem]
        places = [i for i, (seed, number) in enumerate(keys) if unfinished or number < seeds.get(seed, 0)]
        return [keys[i] for i in places], {name: [values[i] for i in places] for name, values in found.items()}

    def samples(self, problem: str, *, unfinished: bool = False) -> list[Drawn]:
        """A problem's samples, by seed and number."""
        names = (name for name in SAMPLE_COLUMNS.names if name not in KEY)
        keys, columns = self.rows(problem, *names, unfinished=unfinished)
        prompt = self.problems[problem].prompt_tokens
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        return [sample_of(problem, *key, row, prompt) for key, row in zip(keys, rows, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens; empty where the bank came without a tokenizer."""
        if self._tokenizer is None:
            return ""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    @cached_property
    def _tokenizer(self) -> Any:
        file = self.folder / TOKENIZER
        if not file.is_file():
            return None
        from tokenizers import Tokenizer  # only banks whose samples are cut need it

        return Tokenizer.from_file(str(file))

    def reading(self, verifier: str, problem: str) -> Reading:
        """What a verifier said of a problem's samples."""
        if verifier not in self.verifiers:
            known = f"those of {', '.join(self.verifiers)}" if self.verifiers else "none"
            raise UsageError(
                f"{self.folder} holds no scores of {verifier}; it has {known}. The lab's reward models read a bank "
                f"with python -m evals.lab.read {self.folder} --rewards {verifier}"
            )
        if verifier not in self._scores:
            folder = self.folder / SCORES / verifier
            self._scores[verifier] = read_model(folder), places_in(folder, self.manifest.fingerprint)
        model, places = self._scores[verifier]
        keys, columns = joined(places.get(problem, ()), ["steps"], [])
        return Reading(model, dict(zip(keys, columns["steps"], strict=True)))


def _lines(file: File, noun: type[N]) -> list[N]:
    return read_lines(file, noun) if file.is_file() else []


def read_manifest(folder: File) -> Manifest:
    """What a bank says of itself."""
    file = folder / MANIFEST
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{folder} is no bank: {MANIFEST} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise UsageError(f"{file} is of no bank of this version: {one_line(error)}") from error


def read_model(folder: File) -> ModelInfo:
    """The model whose scores are in a folder."""
    try:
        return ModelInfo.model_validate_json((folder / VERIFIER).read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(f"{folder} holds scores of nobody: {VERIFIER}: {one_line(error)}") from error
