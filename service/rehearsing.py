"""`tts whatif`: rehearse strategies on recorded samples; a table, a plot, figures, and advice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

import click

from evals.bounds import allocated
from evals.page import amount, percent
from evals.plan import Method
from evals.plots import draw_whatif, write
from evals.records import Unit
from evals.suites import Item
from evals.whatif import Findings, Setting, Whatif, as_figures, cheapest, pareto, problems_of, rehearsed
from service.evaluation import asked_budgets, baseline_of, columns_of, new_table, parsed_method, print_table, troubles
from service.progress import progress
from tts.bank import Bank
from tts.cost import Prices, read_prices
from tts.errors import UsageError, counted
from tts.strategy import Verifier
from verifiers import VERIFIERS
from verifiers.recorded import Recorded

KNOWN: dict[str, type[Verifier]] = {**VERIFIERS, Recorded.name: Recorded}


def whatif(folders: Sequence[File], options: dict[str, Any]) -> int:
    """Rehearse, and print what came of it."""
    prices = read_prices(options["prices"]) if options["prices"] else {}
    methods = [parsed_method(spec, options["verifier"], KNOWN) for spec in options["strategies"]]
    options = {**options, "baseline": baseline_of(options["baseline"], options["strategies"], methods)}
    banks = [Bank(folder) for folder in folders]
    if len({bank.manifest.source for bank in banks}) > 1:
        raise UsageError("these banks are of different problems; compare banks of one suite, split and file")
    found = [_rehearsed(bank, methods, prices, options) for bank in banks]
    settings = [Setting(each.section, point) for each in found for point in each.section.points]
    frontier = pareto(settings)
    chosen = cheapest(settings, options["target_accuracy"], options["max_p95_seconds"])
    figures = json.dumps(as_figures(found, frontier, chosen), indent=2)
    if options["out"]:
        _write(options["out"], figures, found)
    if options["as_json"]:
        click.echo(figures)
        return 0
    for each in found:
        _table(each, frontier)
    if options["target_accuracy"] is not None or options["max_p95_seconds"] is not None:
        click.echo(_said(chosen, settings, options))
    if options["out"]:
        click.echo(f"\nfigures  {options['out'] / 'whatif.json'}, curves {options['out'] / 'whatif'}*.png and .svg")
    return 0


def _write(out: File, figures: str, found: Sequence[Findings]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "whatif.json").write_text(figures + "\n", encoding="utf-8")
        for i, each in enumerate(found, start=1):
            write(draw_whatif(each), out / ("whatif" if len(found) == 1 else f"whatif-{i}"))
    except OSError as error:
        raise UsageError(f"cannot write into {out}: {error.strerror}; name another folder with --out") from error


def _rehearsed(bank: Bank, methods: Sequence[Method], prices: Prices, options: dict[str, Any]) -> Findings:
    suite, items = problems_of(bank, options["data"])
    plan = Whatif(
        suite=suite,
        items=items[: options["limit"]],
        methods=methods,
        budgets=asked_budgets(options) or _doublings(bank, items),
        resamples=options["resamples"],
        price=prices.get(bank.manifest.model.name),
        seed=options["seed"],
    )
    with progress("jobs", plan.jobs) as observe:
        return rehearsed(bank, plan, options["baseline"], lambda done: observe(done, done))


def _doublings(bank: Bank, items: Sequence[Item]) -> list[tuple[Unit, float]]:
    """1, 2, 4, … samples, as many as every problem has."""
    counts = bank.counts()
    least = min(counts[item.problem.id] for item in items)
    return [("samples", float(2**i)) for i in range(least.bit_length())]


def _table(found: Findings, frontier: Sequence[Setting]) -> None:
    section, best = found.section, {setting.point.cell for setting in frontier if setting.section is found.section}
    table = new_table(section, "p50 s", "p95 s", "oracle")
    for point in section.points:
        assert point.latency is not None, "rehearsed jobs know how long they took"
        table.add_row(
            f"{'*' if point.cell in best else ' '} {point.cell.method}",
            *columns_of(point),
            *map(amount, point.latency),
            percent(allocated(found.pools, section.flops(point))),
        )
    print_table(
        table,
        f"{counted(len(found.pools), 'problem')} of {min(p.recorded for p in found.pools.values()):,} or more samples"
        f"{_left_out(found)}; {counted(len(section.rows), 'job')} rehearsed, {found.rate:,.0f} a second. "
        "* on the frontier: nothing here is as accurate, as cheap and as fast. "
        "oracle: the coverage of one who knows how hard each problem is, for as much.",
        *troubles(section),
    )


def _left_out(found: Findings) -> str:
    """What a reader has to know about jobs that would have gone on elsewhere."""
    without = sum(row.answer is None and not row.error for row in found.section.rows)
    if not without or "continue" not in found.section.settings.model.capabilities:
        return ""
    return f", {counted(without, 'job')} without an answer, which a live run would have forced at the end"


def _said(chosen: Setting | None, settings: Sequence[Setting], options: dict[str, Any]) -> str:
    """The cheapest setting that keeps what was asked for, or how near the others come."""
    target, limit = options["target_accuracy"], options["max_p95_seconds"]
    wishes = [] if target is None else [f"accuracy {target:.1%}"]
    wishes += [] if limit is None else [f"95 % within {limit:g} s"]
    wish = " and ".join(wishes)
    if chosen is None:
        best = max(settings, key=lambda setting: setting.point.accuracy.mean)
        return f"nothing here reaches {wish}; the most accurate is {best}"
    return f"cheapest that reaches {wish}: {chosen}"
