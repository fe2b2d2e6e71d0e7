"""What a suite is: where its problems come from, what its answers look like, and when one is right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path as File
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from evals.lab.splits import Split
from tts.answers import AnswerKind
from tts.cost import one_line
from tts.errors import UsageError
from tts.strategy import Verifier
from tts.types import Noun, Problem, Sampling


def _as_text(value: object) -> object:
    """Numbers are welcome as ids and answers; None and lists are mistakes."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]


class Row(Noun):
    """One problem as a file or a generator gives it; `group` is its difficulty, subject, or nothing, and `kind` its own
    kind of answer, where the suite's does not say all, as of a program with tests of its own."""

    id: Text
    problem: Annotated[str, Field(min_length=1)]
    answer: Text
    group: str = ""
    kind: AnswerKind | None = None


class Item(Noun):
    """A problem, and the reference answer that no strategy is ever shown."""

    problem: Problem
    reference: str
    group: str


@dataclass(frozen=True)
class Suite:
    """A set of problems. `rows` yields those of a split, in an order that never changes; `right` says whether an
    answer solves a problem and, where it is not `quick`, runs in a process that can be killed."""

    name: str
    about: str
    kind: AnswerKind
    rows: Callable[[Split], Iterable[Row]]
    right: Callable[[Item, str], bool]
    quick: bool = False
    backend: str = "local"
    """What solves it when nobody names a backend."""
    sampling: Sampling = field(default_factory=Sampling)
    splits: tuple[Split, ...] = ("test",)
    step_end: str = "\n\n"
    """What ends a step of a solution."""
    verifiers: Mapping[str, Verifier] = field(default_factory=dict)
    """Verifiers of its own, by the names under which they can be asked for."""

    def items(self, split: Split, limit: int | None, data: File | None = None) -> list[Item]:
        """The first `limit` problems of a split, or of a local file."""
        if data is None and split not in self.splits:
            raise UsageError(f"suite {self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        rows = self.rows(split) if data is None else read_rows(data)
        items = [self._item(row) for row in islice(rows, limit)]
        _check_ids(items, self.name if data is None else str(data))
        return items

    def _item(self, row: Row) -> Item:
        problem = Problem.ask(row.problem, row.kind or self.kind)
        problem = problem.model_copy(update={"id": row.id, "step_end": self.step_end})
        return Item(problem=problem, reference=row.answer, group=row.group)


def same_answer(item: Item, answer: str) -> bool:
    """Equivalence to the reference, as the answer's kind understands it."""
    kind = item.problem.kind
    known = kind.quick(item.reference, answer)
    return kind.same(item.reference, answer) if known is None else known


def read_rows(file: File) -> Iterator[Row]:
    """Problems from a JSONL file with `id`, `problem` and `answer`; other columns are welcome and not read, except
    `group` and MATH's `level`."""
    try:
        lines = _contents(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read the problems in {file}: {one_line(error)}") from error
    if not any(line.strip() for line in lines):
        raise UsageError(f"{file} holds no problems; it needs one JSON object a line, with id, problem and answer")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _row(line, f"{file}, line {number}")


def _contents(file: File) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the problems in {file}: {one_line(error)}") from error


def digested(file: File | None) -> str | None:
    """A file of problems by its name and what it holds: what came of an earlier version must not be gone on with."""
    if file is None:
        return None
    return f"{file.name}, SHA-256 {hashlib.sha256(_contents(file)).hexdigest()[:16]}"


def _row(line: str, where: str) -> Row:
    try:
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("is no JSON object")
        group = found.get("group", f"level {found['level']}" if "level" in found else "")
        return Row.model_validate({**{k: found[k] for k in ("id", "problem", "answer") if k in found}, "group": group})
    except ValidationError as error:
        raise UsageError(f"{where}: {one_line(error)}; it needs id, problem and answer") from error
    except ValueError as error:
        raise UsageError(f"{where} is no problem: {one_line(error)}") from error


def _check_ids(items: list[Item], where: str) -> None:
    seen: set[str] = set()
    for item in items:
        if item.problem.id in seen:
            raise UsageError(f"{where} has two problems with the id {item.problem.id!r}; ids must be unique")
        seen.add(item.problem.id)


def hub(
    dataset: str, split: str, *, subset: str | None = None, row: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> Callable[[Split], Iterator[Row]]:
    """Rows of a dataset on the Hugging Face hub; `row` maps its columns to `problem`, `answer` and perhaps `id`."""

    def rows(_: Split) -> Iterator[Row]:
        for i, each in enumerate(_download(dataset, subset, split)):
            found = {"id": f"{dataset}/{i}", **row(each)}
            yield Row.model_validate(found)

    return rows


def _download(dataset: str, subset: str | None, split: str) -> Iterable[Mapping[str, Any]]:
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as error:
        raise UsageError(f"this suite needs {error.name}; pip install 'test-time-scaling[evals]'") from error
    try:
        rows: Iterable[Mapping[str, Any]] = load_dataset(dataset, subset, split=split)
    except Exception as error:  # offline, moved, gated: datasets and its HTTP client raise a dozen types
        raise UsageError(
            f"cannot load {dataset} ({split}) from the Hugging Face hub: {one_line(error)}; "
            f"for a local copy: --data FILE.jsonl with id, problem and answer"
        ) from error
    return rows
