"""`tts eval` and `tts report`: from words to a plan, progress while it runs, tables and files when it is done."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path as File
from typing import Any

import click
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from evals.evaluate import evaluate
from evals.held import check_plan
from evals.lab.splits import Split
from evals.page import amount, interval, page, percent, signed
from evals.plan import Method, Plan
from evals.plots import draw, write
from evals.records import Row, Settings, Unit
from evals.report import Point, Section, as_object, no_baseline, read_sections
from evals.suites import SUITES, Item, Suite, digested
from service.display import BACKEND_FAILED, INTERRUPTED, working
from service.options import (
    USUAL_VERIFIER,
    asked_by_profile,
    bank_behind,
    check_flops,
    checked,
    models_of,
    open_backend,
    prices_of,
    profile_of,
    run_with,
    strategy_of,
    verifier_of,
)
from service.progress import progress
from tts.answers import Code
from tts.backends.base import Backend
from tts.errors import UsageError, counted, unknown
from tts.sandbox import Sandbox
from tts.solve import code_version
from tts.strategy import Verifier
from tts.types import Budget, Sampling
from verifiers import VERIFIERS

NARROWEST, WIDEST = 120, 160
"""Columns of a table, also where a pipe or a small terminal claims to have fewer."""
LAB_PROBLEMS = 100
NONE_OF_ITS_OWN: Mapping[str, Verifier] = {}
DEFAULT_TOKENS = (250, 500, 1000, 2000)
UNITS: tuple[Unit, ...] = ("tokens", "seconds", "usd", "flops", "samples")


def run(suite_name: str, options: dict[str, Any]) -> int:
    """Run the plan, report on it, and say where everything is. Returns the exit code."""
    suite = chosen_suite(suite_name)
    split = chosen_split(suite, options)
    backend_name = options["backend_name"] or suite.backend
    profiled = profile_of(backend_name)
    own = profiled[1].drawn if profiled else {}
    sampling = chosen_sampling(suite.sampling.model_copy(update=own), options)
    readers: dict[str, Backend] = {}
    plan = _plan(suite, split, options, readers)
    baseline = baseline_of(options["baseline"], options["strategies"], plan.methods)
    with working(f"loading {backend_name}"):
        backend = open_backend(backend_name)
    prices = prices_of(options["prices"], plan.backends(backend), backend_name, readers)
    check_flops(any(unit == "flops" for unit, _ in plan.budgets), plan.backends(backend))
    if bank := bank_behind(backend_name):
        check_plan(bank, plan)
    settings = Settings(
        suite=suite.name,
        split=split,
        data=digested(options["data"]),
        model=backend.info,
        sampling=sampling,
        code=code_version(),
    )
    folder: File = options["out"] or File("runs") / f"{suite.name}-{split}"
    try:
        with _progress(plan) as observe:
            rows = run_with(plan.backends(backend), evaluate(plan, backend, settings, prices, folder, observe))
    except KeyboardInterrupt:
        click.echo(
            f"tts: interrupted; the rows in {folder} are kept, and the same command goes on from there", err=True
        )
        return INTERRUPTED
    report([folder], folder, baseline, as_json=False)
    return BACKEND_FAILED if all(row.error for row in rows) else 0


def _plan(suite: Suite, split: Split, options: dict[str, Any], opened: dict[str, Backend]) -> Plan:
    """What to run; bad methods, budgets and data are refused here. The models that read are kept in `opened`."""
    specs = [parsed_method(spec, options["verifier"], own=suite.verifiers) for spec in options["strategies"]]
    baseline_of(options["baseline"], options["strategies"], specs)
    methods = [replace(each, models=models_of(each.strategy, each.verifier, opened)) for each in specs]
    budgets = asked_budgets(options)
    limit = options["limit"] or (LAB_PROBLEMS if len(suite.splits) > 1 and not options["data"] else None)
    return Plan(
        suite=suite,
        items=_asked(suite.items(split, limit, options["data"]), options["backend_name"], methods),
        methods=methods,
        budgets=budgets or [("tokens", each) for each in DEFAULT_TOKENS],
        seeds=range(options["seeds"]),
        concurrency=options["concurrency"],
        runner=Sandbox().checked() if isinstance(suite.kind, Code) else None,
    )


def _asked(items: Sequence[Item], backend: str | None, methods: Sequence[Method]) -> Sequence[Item]:
    """The problems as the model of a profile is asked them."""
    found = profile_of(backend or "")
    for method in methods:
        items = [
            item.model_copy(update={"problem": asked_by_profile(found, item.problem, method.strategy, ())})
            for item in items
        ]
    return items


def chosen_suite(name: str) -> Suite:
    """The suite of that name."""
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    return SUITES[name]


def chosen_split(suite: Suite, options: dict[str, Any]) -> Split:
    """The split that was asked for, else the one to try things on."""
    if options["split"] and options["data"]:
        raise UsageError("--data has no splits; leave out --split, and name the rest in another file")
    split: Split = options["split"] or ("dev" if "dev" in suite.splits else "test")
    return split


def asked_budgets(options: dict[str, Any]) -> list[tuple[Unit, float]]:
    """Every budget that was named, once."""
    budgets = [(unit, value) for unit in UNITS for value in dict.fromkeys(options[unit])]
    for unit, value in budgets:
        checked(Budget, {"tokens" if unit == "samples" else unit: value})
    return budgets


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
    searched = any(point.kv for point in section.points)
    table = new_table(section, *(("KV kept", "idle") if searched else ()))
    for point in section.points:
        more = [amount(point.kv.after), percent(point.kv.idle)] if point.kv else ["–", "–"]
        table.add_row(point.cell.method, *columns_of(point), *(more if searched else []))
    first = section.points[0]
    print_table(
        table,
        f"{counted(first.problems, 'problem')}, {counted(first.seeds, 'seed')}. Compute: mean total FLOPs a problem, "
        f"in policy tokens. Points vs {section.baseline}: at equal compute, paired by problem."
        + (" KV kept: mean tokens in the cache after a selection. Idle: time lost to step barriers." * searched),
        *troubles(section),
    )


def new_table(section: Section, *more: str) -> Table:
    """An empty table for a section's points, with a few columns more."""
    table = Table(title=section.title, title_justify="left", box=None, header_style="dim", pad_edge=False)
    table.add_column("method", overflow="fold")
    for name in ("budget", "accuracy", "95 % interval", f"points vs {section.baseline}", "coverage", "compute", *more):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def columns_of(point: Point) -> list[str]:
    """What `new_table` says of a point, but for its method and what was added."""
    return [
        f"{amount(point.cell.amount)} {point.cell.unit}",
        percent(point.accuracy.mean),
        interval(point.accuracy),
        signed(point.difference),
        percent(point.coverage),
        amount(point.compute),
    ]


def print_table(table: Table, note: str, *troubles: str) -> None:
    """On standard output, with a note below it, and what went wrong in red."""
    console = Console(highlight=False)
    wanted = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    console.width = max(console.width, NARROWEST, wanted)
    console.print(table)
    console.print(note, style="dim")
    for trouble in troubles:
        console.print(trouble, style="red")


def troubles(section: Section) -> Iterator[str]:
    """What went wrong, a line each."""
    if section.unfinished:
        which = ", ".join(f"{cell} ({share} problems and seeds)" for cell, share in section.unfinished.items())
        yield f"unfinished, so that accuracies are of different problems: {which}"
    for row in section.errors[:10]:
        yield f"error: {row.problem}, {row.cell}, seed {row.seed}: {row.error}"
    if len(section.errors) > 10:
        yield f"… and {counted(len(section.errors) - 10, 'more error')}; report.html lists them all"


def parsed_method(
    spec: str,
    verifier: str,
    verifiers: Mapping[str, type[Verifier]] = VERIFIERS,
    own: Mapping[str, Verifier] = NONE_OF_ITS_OWN,
) -> Method:
    """A method from `NAME[:PARAMETER=VALUE,…][@VERIFIER]`; `own` are the suite's verifiers. With another verifier it is
    another method, so that its rows are never taken for those of the first."""
    described, _, named = spec.partition("@")
    strategy = strategy_of(described)
    unsaid = "scores" in strategy.needs and not named and verifier != USUAL_VERIFIER
    return Method(
        label=f"{spec}@{verifier}" if unsaid else spec,
        strategy=strategy,
        verifier=parsed_verifier(named or verifier, verifiers, own),
        fixed="n" in strategy.model_fields_set,
    )


def parsed_verifier(spec: str, verifiers: Mapping[str, type[Verifier]], own: Mapping[str, Verifier]) -> Verifier:
    """A verifier from `NAME[:PARAMETER=VALUE,…][@BACKEND]`: one of the suite's, with what is to be different, or any
    other."""
    made = verifier_of(spec, (), {**verifiers, **{name: type(each) for name, each in own.items()}})
    name = re.split("[:@]", spec)[0]
    return own[name].model_copy(update=made.model_dump(exclude_unset=True)) if name in own else made


def baseline_of(named: str | None, specs: Sequence[str], methods: Sequence[Method]) -> str | None:
    """The label of the method that others are compared with, which may be named as its strategy was."""
    labels = {**dict(zip(specs, (each.label for each in methods), strict=True)), **{m.label: m.label for m in methods}}
    if named is not None and named not in labels:
        raise no_baseline(named, list(labels))
    return labels[named] if named is not None else None


def chosen_sampling(default: Sampling, options: dict[str, Any]) -> Sampling:
    """The suite's own way of sampling, with what was asked for instead."""
    given = {name: options[name] for name in ("max_tokens", "temperature", "top_p") if options[name] is not None}
    return checked(Sampling, {**default.model_dump(), **given})


class _Accuracy:
    """How it goes so far, by method at its largest budget."""

    def __init__(self, plan: Plan) -> None:
        self.done = self.new = self.errors = 0
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
        errors = f"; {counted(self.errors, 'error')}" if self.errors else ""
        return f"{running or 'no problem is through yet'} at {self._largest[1]:,g} {self._largest[0]}{errors}"


@contextmanager
def _progress(plan: Plan) -> Iterator[Callable[[Row, bool], None]]:
    """How many rows there are, and the running accuracy."""
    state = _Accuracy(plan)
    with progress("rows", plan.size, state) as observe:

        def add(row: Row, new: bool) -> None:
            state.add(row, new)
            observe(state.done, state.new)

        yield add
