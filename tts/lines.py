"""Files of JSON lines that survive a kill."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path as File
from typing import Generic, Self, TypeVar

from pydantic import ValidationError

from tts.cost import one_line
from tts.errors import UsageError
from tts.types import Noun

N = TypeVar("N", bound=Noun)


class Lines(Generic[N]):
    """A file of JSON lines, appended to by one process at a time. What a kill tore off is cut away on opening."""

    def __init__(self, file: File, noun: type[N]) -> None:
        self._file, self._noun = file, noun
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{file} is in use by another run; wait for it, or name another --out") from error
        except OSError as error:
            raise UsageError(f"cannot write {file}: {error.strerror}; name another folder with --out") from error
        data = file.read_bytes()
        os.truncate(self._descriptor, data.rfind(b"\n") + 1)

    def append(self, noun: N) -> None:
        data = noun.model_dump_json().encode() + b"\n"
        try:
            whole = os.write(self._descriptor, data) == len(data)
        except OSError as error:
            raise UsageError(f"cannot write {self._file}: {error.strerror}; what was written is kept") from error
        if not whole:
            raise UsageError(f"cannot write {self._file}: the disk is full; what was written is kept")

    def read(self) -> list[N]:
        return read_lines(self._file, self._noun)

    def clear(self) -> None:
        """Forget all lines."""
        os.truncate(self._descriptor, 0)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_lines(file: File, noun: type[N]) -> list[N]:
    """Every whole line of a file."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    found = []
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            found.append(noun.model_validate_json(line))
        except ValidationError as error:
            raise UsageError(f"{file}, line {number} is no record of this version: {one_line(error)}") from error
    return found
