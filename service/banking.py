"""`tts bank`: record samples once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

import click

from evals.fill import fill as fill_bank
from evals.suites import digested
from service.display import BACKEND_FAILED, INTERRUPTED, working
from service.evaluation import chosen_sampling, chosen_split, chosen_suite
from service.options import open_backend, run_with
from service.progress import progress
from tts.bank import Bank, Manifest, Source
from tts.bank import merge as merge_banks
from tts.errors import counted


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
        with progress("samples", len(items) * options["samples"]) as observe:
            gaps = run_with(
                [backend],
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
        said = f"{counted(gaps.missing, 'sample')} still missing: {gaps.reason}; the same command draws what is missing"
        click.echo(f"tts: {said}, until then problems that lack any are left out", err=True)
    return BACKEND_FAILED if gaps.missing else 0


def show(folder: File, as_json: bool) -> int:
    """Print what a bank holds."""
    facts = _facts(Bank(folder))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        click.echo(f"{name:<14}{'-' if value is None else value}")
    return 0


def merge(folders: Sequence[File], out: File) -> int:
    """Put the samples of several banks into a new one, and print what it holds."""
    merge_banks([Bank(folder) for folder in folders], out)
    return show(out, as_json=False)


def _facts(bank: Bank) -> dict[str, Any]:
    manifest = bank.manifest
    counts = bank.counts()
    samples, tokens, recorded = sum(counts.values()), bank.tokens(), bank.tokens(unfinished=True)
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
        "unfinished": max(0, bank.unfinished()),
        "lost": sum(bank.lacking.values()),
        "tokens": tokens,
        "bytes": size,
        "bytes a token": round(size / recorded, 2) if recorded else None,  # those of unfinished problems are kept too
        "verifiers": ", ".join(bank.verifiers) or "none",
        "terms": ", ".join(f"{name}={value}" for name, value in manifest.terms if value is not None) or "none",
    }
