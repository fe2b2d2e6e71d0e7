"""`tts eval`, `tts report`: strategies compared at equal budgets."""

from __future__ import annotations

from pathlib import Path as File
from typing import Any

import click

from service.commands.shared import EVAL_EXIT_CODES, VERIFIER, compared, given_options, guarded, optional
from service.options import Variadic, with_methods


@click.command("eval", cls=Variadic, epilog=EVAL_EXIT_CODES)
@click.argument("suite")
@compared("NAME, NAME:PARAMETER=VALUE,… and perhaps @VERIFIER; several may follow.")
@click.option(
    "--tokens",
    type=int,
    multiple=True,
    metavar="N…",
    help="Token budgets, the points of the curves.  [default: 250 500 1000 2000]",
)
@click.option(
    "--seconds", type=float, multiple=True, metavar="S…", help="Budgets as deadlines; nothing is shared then."
)
@click.option("--usd", type=float, multiple=True, metavar="$…", help="Budgets in dollars; needs --prices.")
@click.option("--flops", type=float, multiple=True, metavar="F…", help="Budgets in floating-point operations.")
@click.option(
    "--samples", type=click.IntRange(1), multiple=True, metavar="N…", help="Numbers of samples, each paid in full."
)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Repetitions, seeds 0, 1, …")
@click.option("--limit", type=click.IntRange(1), help="Problems.  [default: 100 of the lab's, all of a data set]")
@click.option("--split", type=click.Choice(["train", "dev", "test"]), help="Default: dev in the lab, else test.")
@click.option("--data", type=click.Path(path_type=File), help="JSONL with id, problem, answer: instead of the hub.")
@click.option("--backend", "backend_name", help="As for `tts solve`.  [default: the suite's own model]")
@VERIFIER
@click.option("--max-tokens", type=int, help="Most tokens of one sample.  [default: the suite's]")
@click.option("--temperature", type=float, help="Sampling temperature.  [default: the suite's]")
@click.option("--top-p", type=float, help="Nucleus sampling.  [default: the suite's]")
@click.option("--prices", type=click.Path(path_type=File), help="Price table (TOML), for a column in dollars.")
@click.option(
    "--concurrency", type=click.IntRange(1), default=64, show_default=True, help="Problems in flight at once."
)
@click.option("--baseline", metavar="SPEC", help="The method that others are compared with.  [default: the first]")
@click.option("--out", type=click.Path(path_type=File), help="Folder for rows and report.  [default: runs/SUITE-SPLIT]")
def evaluate(suite: str, **options: Any) -> None:
    """Compare strategies on SUITE at equal budgets.

    \b
    tts eval chain
    tts eval chain --strategy best_of_n self_consistency:weights=borda --tokens 250 1000 --seeds 3
    tts eval gsm8k --data gsm8k.jsonl --limit 50 --tokens 500 2000 --out runs/gsm8k

    Suites: chain and countdown (the lab's, with models of their own), gsm8k, math500, aime24, aime25, amc23, humaneval.
    Rows are written as they finish; the same command goes on where it was interrupted.
    """
    explicit = given_options()
    guarded(lambda: optional("evaluation").run(suite, with_methods(options, explicit)))


@click.command("report")
@click.argument("folders", metavar="DIR…", nargs=-1, required=True, type=click.Path(path_type=File))
@click.option("--baseline", metavar="SPEC", help="The method that others are compared with.  [default: the first]")
@click.option("--out", type=click.Path(path_type=File), help="Where to write the report.  [default: the first DIR]")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON and nothing else.")
def report(folders: tuple[File, ...], baseline: str | None, out: File | None, as_json: bool) -> None:
    """Merge the runs in some folders into one report: tables, curves, and one HTML page."""
    guarded(lambda: optional("evaluation").report(folders, out or folders[0], baseline, as_json))
