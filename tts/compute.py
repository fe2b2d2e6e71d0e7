"""Slow or untrusted-in-time local work, in processes that can be killed."""

from __future__ import annotations

import atexit
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from functools import cache
from typing import Any, TypeVar

from pebble import ProcessPool

from tts.clock import outside

T = TypeVar("T")
WORKERS = 2


async def in_process(function: Callable[..., T], *arguments: Any, seconds: float) -> T:
    """`function(*arguments)` in another process, which is killed after `seconds` of real time.

    Raises `TimeoutError` then. Function and arguments must be picklable.
    """
    future = _pool().schedule(function, args=list(arguments), timeout=seconds)
    try:
        return await outside(future)
    except FutureTimeout as error:
        raise TimeoutError(f"{function} took more than {seconds} s") from error


async def value_of(function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> tuple[Any, bool]:
    """What came of `function(*arguments)`, as JSON carries it, and whether the time was too short for anything."""
    try:
        value = await in_process(function, *arguments, seconds=seconds)
    except TimeoutError:
        return None, True
    return json.loads(json.dumps(value)), False


@cache
def _pool() -> ProcessPool:
    # Spawned, not forked: a fork of a process that runs torch's threads may inherit a held lock.
    pool = ProcessPool(max_workers=WORKERS, context=multiprocessing.get_context("spawn"))
    atexit.register(_close, pool)
    return pool


def _close(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()
