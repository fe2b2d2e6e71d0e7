"""`tts eval` and `tts report`: from words to a plan, progress while it runs, tables and files when it is done."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path as File
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from evals.evaluate import evaluate
from evals.lab.splits import Split
from evals.page import amount, interval, page, percent, signed
from evals.plan import Method, Plan
from evals.plots import draw, write
from evals.records import Row, Settings, Unit
from evals.report import Section, as_object, no_baseline, read_sections
from evals.suites import SUITES, Suite
from service.display import BACKEND_FAILED, INTERRUPTED, working
from service.options import build, checked, open_backend
from strategies import STRATEGIES
from tts.cost import read_prices
from tts.errors import UsageError, unknown
from tts.solve import code_version
from tts.types import Budget, Sampling
from verifiers import VERIFIERS

NARROWEST = 120
"""Columns of a table, also where a pipe or a small terminal claims to have fewer."""
QUIET_SECONDS = 5.0
EARLY = 0.02
"""The share of a run before which nobody can say how long it will take."""
LAB_PROBLEMS = 100
DEFAULT_TOKENS = (250, 500, 1000, 2000)
UNITS: tuple[Unit, ...] = ("tokens", "seconds", "usd", "flops", "samples")


def run(suite_name: str, options: dict[str, Any]) -> int:
    """Run the plan, report on it, and say where everything is. Returns the exit code."""
    if suite_name not in SUITES:
        raise unknown("suite", suite_name, SUITES)
    suite = SUITES[suite_name]
    if options["split"] and options["data"]:
        raise UsageError("--data has no splits; leave out --split, and name the rest in another file")
    split: Split = options["split"] or ("dev" if "dev" in suite.splits else "test")
    sampling = _sampling(suite.sampling, options)
    prices = read_prices(options["prices"]) if options["prices"] else {}
    plan = _plan(suite, split, options)
    backend_name = options["backend_name"] or suite.backend
    with working(f"loading {backend_name}"):
        backend = open_backend(backend_name)
    settings = Settings(
        suite=suite.name,
        split=split,
        data=_data(options["data"]) if options["data"] else None,
        model=backend.info,
        sampling=sampling,
        code=code_version(),
    )
    folder: File = options["out"] or File("runs") / f"{suite.name}-{split}"
    try:
        with _progress(plan) as observe:
            rows = asyncio.run(evaluate(plan, backend, settings, prices, folder, observe))
    except KeyboardInterrupt:
        click.echo(
            f"tts: interrupted; the rows in {folder} are kept, and the same command goes on from there", err=True
        )
        return INTERRUPTED
    report([folder], folder, options["baseline"], as_json=False)
    return BACKEND_FAILED if all(row.error for row in rows) else 0


def _plan(suite: Suite, split: Split, options: dict[str, Any]) -> Plan:
    """What to run; bad methods, budgets and data are refused here."""
    methods = [_method(spec, options["verifier"]) for spec in options["strategies"]]
    budgets = [(unit, value) for unit in UNITS for value in dict.fromkeys(options[unit])]
    for unit, value in budgets:
        checked(Budget, {"tokens" if unit == "samples" else unit: value})
    if options["baseline"] not in (None, *options["strategies"]):
        raise no_baseline(options["baseline"], options["strategies"])
    limit = options["limit"] or (LAB_PROBLEMS if len(suite.splits) > 1 and not options["data"] else None)
    return Plan(
        suite=suite,
        items=suite.items(split, limit, options["data"]),
        methods=methods,
        budgets=budgets or [("tokens", each) for each in DEFAULT_TOKENS],
        seeds=range(options["seeds"]),
        concurrency=options["concurrency"],
    )


def _data(file: File) -> str:
    """A file of problems by its name and what it holds: rows of an earlier version of it must not be gone on with."""
    return f"{file.name}, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"


def report(folders: Sequence[File], out: File, baseline: str | None, as_json: bool) -> int:
    """Print tables and write `report.html`, `report.json` and the curves into `out`."""
    sections = read_sections(folders, baseline)
    figures = json.dumps(as_object(sections), indent=2)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").write_text(page(sections), encoding="utf-8")
        (out / "report.json").write_text(figures + "\n", encoding="utf-8")
        for section in sections:
            name = "curves" if len(sections) == 1 else f"curves-{section.settings.suite}-{section.settings.model.name}"
            write(draw(section), out / name)
    except OSError as error:
        raise UsageError(f"cannot write the report into {out}: {error.strerror}") from error
    if as_json:
        click.echo(figures)
        return 0
    for section in sections:
        show(section)
    click.echo(f"\nreport   {out / 'report.html'}\nfigures  {out / 'report.json'}, {out / 'curves'}*.png and .svg")
    return 0


def show(section: Section) -> None:
    """The section's table on standard output, and what went wrong."""
    console = Console(highlight=False)
    console.width = max(console.width, NARROWEST)
    table = Table(title=section.title, title_justify="left", box=None, header_style="dim", pad_edge=False)
    table.add_column("method", overflow="fold")
    for name in ("budget", "accuracy", "95 % interval", f"points vs {section.baseline}", "coverage", "compute"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in section.points:
        table.add_row(
            point.cell.method,
            f"{amount(point.cell.amount)} {point.cell.unit}",
            percent(point.accuracy.mean),
            interval(point.accuracy),
            signed(point.difference),
            percent(point.coverage),
            amount(point.compute),
        )
    console.print(table)
    first = section.points[0]
    console.print(
        f"{first.problems} problems, {first.seeds} seed{'s' * (first.seeds > 1)}. Compute: mean total FLOPs a problem, "
        f"in policy tokens. Points vs {section.baseline}: at equal compute, paired by problem.",
        style="dim",
    )
    if section.unfinished:
        which = ", ".join(f"{cell} ({share} problems and seeds)" for cell, share in section.unfinished.items())
        console.print(f"unfinished, so that accuracies are of different problems: {which}", style="red")
    for row in section.errors[:10]:
        console.print(f"error: {row.problem}, {row.cell}, seed {row.seed}: {row.error}", style="red")
    if len(section.errors) > 10:
        console.print(f"… and {len(section.errors) - 10} more errors; report.html lists them all", style="red")


def _method(spec: str, verifier: str) -> Method:
    """A method from `NAME[:PARAMETER=VALUE,…][@VERIFIER[:PARAMETER=VALUE,…]]`."""
    described, _, scorer = spec.partition("@")
    name, _, parameters = described.partition(":")
    strategy = build(STRATEGIES, "strategy", name, [p for p in parameters.split(",") if p])
    scorer_name, _, scorer_parameters = (scorer or verifier).partition(":")
    return Method(
        label=spec,
        strategy=strategy,
        verifier=build(VERIFIERS, "verifier", scorer_name, [p for p in scorer_parameters.split(",") if p]),
        fixed="n" in strategy.model_fields_set,
    )


def _sampling(default: Sampling, options: dict[str, Any]) -> Sampling:
    given = {name: options[name] for name in ("max_tokens", "temperature", "top_p") if options[name] is not None}
    return checked(Sampling, {**default.model_dump(), **given})


class _Accuracy:
    """How it goes so far, by method at its largest budget."""

    def __init__(self, plan: Plan) -> None:
        self.size, self.done, self.new, self.errors = plan.size, 0, 0, 0
        self._right: dict[str, list[bool]] = defaultdict(list)
        self._largest = max(plan.budgets, key=lambda budget: budget[1])

    def add(self, row: Row, new: bool) -> None:
        self.done += 1
        self.new += new
        self.errors += row.error is not None
        if (row.cell.unit, row.cell.amount) == self._largest:
            self._right[row.cell.method].append(row.right)

    def __str__(self) -> str:
        running = ", ".join(f"{method} {sum(r) / len(r):.0%}" for method, r in self._right.items())
        errors = f"; {self.errors} errors" if self.errors else ""
        return f"{running or 'no problem is through yet'} at {self._largest[1]:,g} {self._largest[0]}{errors}"


@contextmanager
def _progress(plan: Plan) -> Iterator[Callable[[Row, bool], None]]:
    """A bar with its ETA and the running accuracy on a terminal; a line now and then elsewhere."""
    state, console = _Accuracy(plan), Console(stderr=True)
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True) as bar:
            task: TaskID = bar.add_task("", total=plan.size)

            def move(row: Row, new: bool) -> None:
                state.add(row, new)
                bar.update(task, advance=1, description=str(state))

            yield move
        return
    began = last = time.monotonic()

    def say(row: Row, new: bool) -> None:
        nonlocal last
        state.add(row, new)
        now = time.monotonic()
        if now - last >= QUIET_SECONDS:
            last = now
            early = state.new <= EARLY * (state.size - state.done)
            eta = "" if early else f", {(now - began) / state.new * (state.size - state.done):,.0f} s left"
            click.echo(f"{state.done:,} of {state.size:,}{eta}; {state}", err=True)

    yield say
