"""Rows of a bank in Parquet files, a row group per problem."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, repeat
from operator import itemgetter
from pathlib import Path as File
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tts.bank.nouns import Drawn
from tts.cost import one_line
from tts.errors import UsageError
from tts.types import Completion, Usage

MARK = "fingerprint"
"""Where every file says which bank it belongs to."""
KEY = ("seed", "number")

SAMPLE_COLUMNS = pa.schema(
    {
        "problem": pa.dictionary(pa.int32(), pa.string()),
        "seed": pa.int64(),
        "number": pa.int32(),
        "finish": pa.dictionary(pa.int8(), pa.string()),
        "tokens": pa.int32(),
        "cached": pa.int32(),
        "seconds": pa.float64(),
        "logprob": pa.float64(),
        "self_certainty": pa.float64(),
        "text": pa.string(),
        "token_ids": pa.list_(pa.uint32()),
    }
)
"""Log-probabilities are sums, self-certainties means over a sample's tokens."""
SCORE_COLUMNS = pa.schema(
    {
        "problem": pa.dictionary(pa.int32(), pa.string()),
        "seed": pa.int64(),
        "number": pa.int32(),
        "steps": pa.list_(pa.float32()),
    }
)


class Place(NamedTuple):
    """A row group of a Parquet file."""

    name: File
    file: pq.ParquetFile
    group: int

    @property
    def rows(self) -> int:
        rows: int = self.file.metadata.row_group(self.group).num_rows
        return rows

    def read(self, *columns: str) -> dict[str, list[Any]]:
        """Some columns of all rows."""
        try:
            found: dict[str, list[Any]] = self.file.read_row_group(self.group, columns=list(columns)).to_pydict()
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.name, error) from error
        if len(found) < len(columns):
            raise UsageError(f"{self.name} lacks the columns {', '.join(set(columns) - found.keys())}; take it out")
        return found


def places_in(folder: File, fingerprint: str) -> dict[str, list[Place]]:
    """Where each problem's rows are."""
    found = defaultdict[str, list[Place]](list)
    for file in sorted(folder.glob("*.parquet")):
        try:
            opened = pq.ParquetFile(file, memory_map=True)
        except pa.ArrowException as error:
            raise _damaged(file, error) from error
        except OSError as error:
            raise UsageError(f"cannot read {file}: {one_line(error)}") from error
        if (opened.schema_arrow.metadata or {}).get(MARK.encode()) != fingerprint.encode():
            raise UsageError(f"{file} belongs to another bank, of another model or way of sampling; take it out")
        for group in range(opened.metadata.num_row_groups):
            problem = opened.metadata.row_group(group).column(0).statistics.min
            found[problem].append(Place(file, opened, group))
    return found


def _damaged(file: File, error: Exception) -> UsageError:
    return UsageError(f"{file} is damaged: {one_line(error)}; remove it, and fill the bank again")


def write_rows(folder: File, columns: pa.Schema, fingerprint: str, rows: Iterable[dict[str, Any]]) -> None:
    """Add a Parquet file of a bank to a folder, whole or not at all; a row group per problem."""
    columns = columns.with_metadata({MARK: fingerprint})
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{1 + max((int(file.stem) for file in folder.glob('*.parquet')), default=-1):05}.parquet"
    unfinished = folder / f"{name}.new"
    try:
        with pq.ParquetWriter(unfinished, columns, compression="zstd") as out:
            for _, group in groupby(sorted(rows, key=itemgetter("problem", "seed", "number")), itemgetter("problem")):
                out.write_table(pa.Table.from_pylist(list(group), schema=columns))
    except OSError as error:
        raise UsageError(f"cannot write {unfinished}: {one_line(error)}; what was recorded is kept") from error
    unfinished.replace(folder / name)


def joined(
    places: Iterable[Place], columns: Sequence[str], loose: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[int, int]], dict[str, list[Any]]]:
    """Some columns of rows in several places, ordered by seed and number, each of which counts once."""
    found: dict[tuple[int, int], tuple[Any, ...]] = {}
    for row in loose:
        found[row["seed"], row["number"]] = tuple(row[name] for name in columns)
    for place in places:
        read = place.read(*KEY, *columns)
        values = zip(*(read[name] for name in columns), strict=True) if columns else repeat(())
        found.update(zip(zip(read["seed"], read["number"], strict=True), values, strict=bool(columns)))
    keys = sorted(found)
    return keys, {name: [found[key][i] for key in keys] for i, name in enumerate(columns)}


def as_row(drawn: Drawn) -> dict[str, Any]:
    """A sample as its columns."""
    completion = drawn.completion
    return {
        "problem": drawn.problem,
        "seed": drawn.seed,
        "number": drawn.number,
        "finish": completion.finish,
        "tokens": completion.usage.completion_tokens,
        "cached": completion.usage.cached_tokens,
        "seconds": completion.usage.seconds,
        "logprob": completion.logprob,
        "self_certainty": completion.self_certainty,
        "text": completion.text,
        "token_ids": completion.token_ids,
    }


def sample_of(problem: str, seed: int, number: int, row: Mapping[str, Any], prompt: int) -> Drawn:
    """A sample from its columns, after a prompt so long."""
    usage = Usage.of(prompt=prompt, cached=row["cached"], completion=row["tokens"], seconds=row["seconds"])
    return Drawn(
        problem=problem,
        seed=seed,
        number=number,
        completion=Completion(
            text=row["text"],
            token_ids=row["token_ids"],
            logprob=row["logprob"],
            self_certainty=row["self_certainty"],
            finish=row["finish"],
            usage=usage,
        ),
    )
