"""`tts bank`: record samples once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path as File
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evals.fill import fill as fill_bank
from evals.suites import digested
from service.display import BACKEND_FAILED, INTERRUPTED, working
from service.evaluation import QUIET_SECONDS, chosen_sampling, chosen_split, chosen_suite
from service.options import open_backend, run_with
from tts.bank import Bank, Manifest, Source
from tts.bank import merge as merge_banks


def fill(suite_name: str, options: dict[str, Any]) -> int:
    """Draw the samples that a bank lacks. Returns the exit code."""
    suite = chosen_suite(suite_name)
    split = chosen_split(suite, options)
    items = suite.items(split, options["limit"], options["data"])
    backend_name = options["backend_name"] or suite.backend
    with working(f"loading {backend_name}"):
        backend = open_backend(backend_name)
    manifest = Manifest(
        model=backend.info,
        sampling=chosen_sampling(suite.sampling, options),
        source=Source(suite=suite.name, split=split, data=digested(options["data"])),
    )
    folder: File = options["out"] or File("banks") / f"{suite.name}-{split}-{backend.info.name}"
    try:
        with progress("samples") as observe:
            gaps = run_with(
                backend,
                fill_bank(
                    items,
                    backend,
                    manifest,
                    folder,
                    samples=options["samples"],
                    seed=options["seed"],
                    concurrency=options["concurrency"],
                    tokenizer=getattr(backend, "tokenizer", None),  # engines behind a network have none to give
                    observe=observe,
                ),
            )
    except KeyboardInterrupt:
        click.echo(f"tts: interrupted; what is in {folder} is kept, and the same command goes on from there", err=True)
        return INTERRUPTED
    show(folder, as_json=False)
    if gaps.missing:
        said = f"{gaps.missing} samples are missing: {gaps.reason}; the same command draws them, until then their"
        click.echo(f"tts: {said} problems are left out", err=True)
    return BACKEND_FAILED if gaps.missing else 0


def show(folder: File, as_json: bool) -> int:
    """Print what a bank holds."""
    facts = _facts(Bank(folder))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        click.echo(f"{name:<14}{value}")
    return 0


def merge(folders: Sequence[File], out: File) -> int:
    """Put the samples of several banks into a new one, and print what it holds."""
    merge_banks([Bank(folder) for folder in folders], out)
    return show(out, as_json=False)


def _facts(bank: Bank) -> dict[str, Any]:
    manifest = bank.manifest
    counts = bank.counts()
    samples, tokens = sum(counts.values()), bank.tokens()
    size = sum(file.stat().st_size for file in bank.folder.rglob("*") if file.is_file())
    return {
        "folder": str(bank.folder),
        "fingerprint": manifest.fingerprint,
        "model": manifest.model.name,
        "source": " ".join(filter(None, (manifest.source.suite, manifest.source.split, manifest.source.data))),
        "sampling": ", ".join(f"{name}={value}" for name, value in manifest.sampling if value not in ((), None)),
        "problems": len(bank.problems),
        "samples": samples,
        "per problem": f"{min(counts.values(), default=0)} to {max(counts.values(), default=0)}",
        "unfinished": bank.unfinished(),
        "tokens": tokens,
        "bytes": size,
        "bytes a token": round(size / max(1, tokens), 2),
        "verifiers": ", ".join(bank.verifiers) or "none",
        "terms": ", ".join(f"{name}={value}" for name, value in manifest.terms if value is not None) or "none",
    }


@contextmanager
def progress(noun: str) -> Iterator[Callable[[int, int], None]]:
    """How many there are of how many: a bar with its ETA on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    began = last = time.monotonic()
    first: int | None = None

    def say(done: int, size: int) -> None:
        nonlocal last, first
        first, now = done if first is None else first, time.monotonic()
        if now - last >= QUIET_SECONDS:
            last = now
            left = (now - began) / max(1, done - first) * (size - done)
            click.echo(f"{done:,} of {size:,} {noun}, {left:,.0f} s left", err=True)

    if not console.is_terminal:
        yield say
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(noun), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, size: bar.update(task, completed=done, total=size)
