"""Adding to a bank: samples, other banks, scores."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import Self

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
from tts.bank.reading import Bank, Reading, read_manifest, read_model
from tts.bank.tables import SAMPLE_COLUMNS, SCORE_COLUMNS, as_row, write_rows
from tts.errors import UsageError
from tts.lines import Lines
from tts.types import Completion, ModelInfo

SETTLE_TOKENS = 2_000_000
"""Tokens that are recorded before they are moved into a Parquet file: about 150 MB while that happens."""


class Filling:
    """A folder of samples, opened by the one process that adds to it.

    A sample is safe as soon as `add` returns. `settle` moves what has come so far into a Parquet file; a kill in
    between leaves some in both places, where they count once.
    """

    def __init__(self, folder: File, manifest: Manifest) -> None:
        self._folder, self.manifest = folder, manifest
        self._loose = Lines(folder / FILLING, Drawn)
        try:
            _claim(folder, manifest)
        except UsageError:
            self._loose.close()
            raise
        self._asked, self._complete = Lines(folder / PROBLEMS, Asked), Lines(folder / COMPLETE, Complete)
        self._bank = bank = Bank(folder)
        self._problems, self._finished, self._tokens = bank.problems, set(bank.finished), 0
        # Of what was lost nothing counts as finished.
        self._finished -= {each for each in self._finished if each.problem in bank.lacking}
        self._known = {(name, *key) for name in bank.problems for key in bank.rows(name, unfinished=True)[0]}

    def known(self, problem: str, seed: int, below: int) -> dict[int, Completion]:
        """The samples that were there at the beginning, by their numbers below some number."""
        if problem not in self._problems:
            return {}
        found = self._bank.samples(problem, unfinished=True)
        return {each.number: each.completion for each in found if each.seed == seed and each.number < below}

    def ask(self, asked: Asked) -> None:
        """Make a problem known, before its first sample."""
        known = self._problems.get(asked.id)
        if known is None:
            self._problems[asked.id] = asked
            self._asked.append(asked)
        elif known != asked:
            raise UsageError(f"{self._folder} holds problem {asked.id} under another prompt; name another folder")

    def add(self, drawn: Drawn) -> None:
        """Keep a sample; one that is already there changes nothing."""
        if drawn.key in self._known:
            return
        self._known.add(drawn.key)
        self._loose.append(drawn)
        self._tokens += drawn.completion.usage.completion_tokens
        if self._tokens >= SETTLE_TOKENS:
            self.settle()

    def complete(self, complete: Complete) -> None:
        """Say that a problem's samples are all there: only now do readers see them."""
        if complete in self._finished:
            return
        lacking = [i for i in range(complete.samples) if (complete.problem, complete.seed, i) not in self._known]
        assert not lacking, f"{len(lacking)} samples of problem {complete.problem} are not there"
        self._finished.add(complete)
        self._complete.append(complete)

    def settle(self) -> None:
        """Move all samples that are in no Parquet file yet into one."""
        loose = {each.key: each for each in self._loose.read()}
        if loose:
            rows = map(as_row, loose.values())
            write_rows(self._folder / SAMPLES, SAMPLE_COLUMNS, self.manifest.fingerprint, rows)
        self._loose.clear()
        self._tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()
        self.close()

    def close(self) -> None:
        for lines in (self._loose, self._asked, self._complete):
            lines.close()


def merge(banks: Sequence[Bank], folder: File) -> None:
    """A new bank of the samples and scores of several, all of one model, one way of sampling and one source."""
    first = banks[0]
    for bank in banks:
        bank.check_whole()
        _same(first.folder, first.manifest, bank.manifest)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    for taken in (folder, unfinished):
        if taken.exists():
            raise UsageError(f"{taken} is there already; remove it, or name another folder with --out")
    with Filling(unfinished, first.manifest) as filling:
        for bank in banks:
            for asked in bank.problems.values():
                filling.ask(asked)
                for drawn in bank.samples(asked.id):
                    filling.add(drawn)
            for complete in bank.finished:
                filling.complete(complete)
    for bank in banks:
        _add_scores(bank, Bank(unfinished))
        if (bank.folder / TOKENIZER).is_file():
            shutil.copyfile(bank.folder / TOKENIZER, unfinished / TOKENIZER)
    unfinished.rename(folder)


def _add_scores(bank: Bank, merged: Bank) -> None:
    for verifier in bank.verifiers:
        readings = {problem: bank.reading(verifier, problem) for problem in bank.problems}
        model = next(reading.model for reading in readings.values())
        write_scores(merged, verifier, model, readings)


def write_scores(bank: Bank, verifier: str, model: ModelInfo, scores: Mapping[str, Reading]) -> None:
    """Add what a verifier said of the samples of some problems."""
    folder = bank.folder / SCORES / verifier
    file = folder / VERIFIER
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(model.model_dump_json(indent=2) + "\n", encoding="utf-8")
    elif read_model(folder) != model:
        raise UsageError(f"{folder} holds scores of another model; remove it, or name this one differently")
    rows = (
        {"problem": problem, "seed": seed, "number": number, "steps": steps}
        for problem, reading in scores.items()
        for (seed, number), steps in reading.steps.items()
    )
    write_rows(folder, SCORE_COLUMNS, bank.manifest.fingerprint, rows)


def _claim(folder: File, manifest: Manifest) -> None:
    """Begin a bank, or go on in one of the same fingerprint."""
    file = folder / MANIFEST
    if file.is_file():
        _same(folder, read_manifest(folder), manifest)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}; name another folder") from error


def _same(folder: File, known: Manifest, other: Manifest) -> None:
    # What a model is said to be able to do grows from version to version; its weights are what counts.
    if known.model.fingerprint == other.model.fingerprint:
        other = other.model_copy(update={"model": known.model})
    differs = [name for name in Manifest.model_fields if getattr(known, name) != getattr(other, name)]
    if differs:
        raise UsageError(f"{folder} holds samples with another {' and '.join(differs)}; name another folder")
