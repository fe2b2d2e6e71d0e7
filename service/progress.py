"""How far long work has come, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

QUIET_SECONDS = 5.0
EARLY = 0.02
"""The share of what is left that has to be done before anybody can say how long the rest will take."""

Observe = Callable[[int, int], None]
"""Told how much is done, and how much of that by this run: what was there already came in no time."""


@contextmanager
def progress(noun: str, size: int, about: object = "") -> Iterator[Observe]:
    """How many of `size` there are, how long the rest will take, and whatever `about` has to say by then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lines(noun, size, about)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(noun), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console, transient=True) as bar:
        task = bar.add_task("", total=size)
        yield lambda done, new: bar.update(task, completed=done, description=str(about))


def lines(noun: str, size: int, about: object = "", clock: Callable[[], float] = time.monotonic) -> Observe:
    """Plain lines, none of them sooner than a few seconds after the one before."""
    pace, last = _Pace(size), clock()

    def say(done: int, new: int) -> None:
        nonlocal last
        now = clock()
        left = pace.left(done, new, now)
        if now - last >= QUIET_SECONDS:
            last = now
            remaining = "" if left is None else f", {left:,.0f} s left"
            more = f"; {about}" if str(about) else ""
            click.echo(f"{done:,} of {size:,} {noun}{remaining}{more}", err=True)

    return say


class _Pace:
    """How fast things come, measured from the first of them on. The time before that is no measure: when the first one
    comes, as many others as there are side by side are nearly through."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._first: tuple[int, float] | None = None

    def left(self, done: int, new: int, now: float) -> float | None:
        """The seconds that the rest will take; None while it is too early to say."""
        if self._first is None and new:
            self._first = new, now
        first, began = self._first or (new, now)
        if new - first <= EARLY * (self._size - done):
            return None
        return (now - began) / (new - first) * (self._size - done)
