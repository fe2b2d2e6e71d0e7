"""`tts bank`, `tts whatif`: samples recorded, and strategies rehearsed on them."""

from __future__ import annotations

from pathlib import Path as File
from typing import Any

import click

from service.commands.shared import EVAL_EXIT_CODES, VERIFIER, compared, guarded, optional
from service.options import Variadic


@click.group()
def bank() -> None:
    """Record samples once, to draw from them again and again.

    A bank is a folder of Parquet files. `tts whatif` asks of it what a strategy would have cost; as --backend bank:DIR
    it stands in for the model itself.
    """


@bank.command("fill", epilog=EVAL_EXIT_CODES)
@click.argument("suite")
@click.option("--samples", type=click.IntRange(1), default=64, show_default=True, help="Samples of each problem.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Problems.")
@click.option("--split", type=click.Choice(["train", "dev", "test"]), help="Default: dev in the lab, else test.")
@click.option("--data", type=click.Path(path_type=File), help="JSONL with id, problem, answer: instead of the hub.")
@click.option("--backend", "backend_name", help="As for `tts solve`.  [default: the suite's own model]")
@click.option("--max-tokens", type=int, help="Most tokens of one sample.  [default: the suite's]")
@click.option("--temperature", type=float, help="Sampling temperature.  [default: the suite's]")
@click.option("--top-p", type=float, help="Nucleus sampling.  [default: the suite's]")
@click.option(
    "--seed", type=click.IntRange(0, 2**31), default=0, show_default=True, help="Another seed, other samples."
)
@click.option("--concurrency", type=click.IntRange(1), default=8, show_default=True, help="Problems in flight at once.")
@click.option("--out", type=click.Path(path_type=File), help="The bank.  [default: banks/SUITE-SPLIT-MODEL]")
def bank_fill(suite: str, **options: Any) -> None:
    """Draw samples of SUITE's problems into a bank, each of them once.

    \b
    tts bank fill chain --samples 256 --limit 2000 --split test
    tts bank fill gsm8k --data gsm8k.jsonl --samples 32 --out banks/mine

    What is there already is not drawn again: the same command goes on where it was interrupted, and a larger --samples
    or --limit extends the bank.
    """
    guarded(lambda: optional("banking").fill(suite, options))


@bank.command("show")
@click.argument("folder", metavar="BANK", type=click.Path(path_type=File))
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON and nothing else.")
def bank_show(folder: File, as_json: bool) -> None:
    """Say what a bank holds: model, sampling, problems, samples, verifiers' scores, size."""
    guarded(lambda: optional("banking").show(folder, as_json))


@bank.command("merge")
@click.argument("folders", metavar="BANK…", nargs=-1, required=True, type=click.Path(path_type=File))
@click.option("--out", type=click.Path(path_type=File), required=True, help="A new folder.")
def bank_merge(folders: tuple[File, ...], out: File) -> None:
    """Put the samples of several banks of one model into a new one; a sample that is in two of them counts once."""
    guarded(lambda: optional("banking").merge(folders, out))


@click.command("whatif", cls=Variadic)
@click.argument("banks", metavar="BANK…", nargs=-1, required=True, type=click.Path(path_type=File))
@compared("As for `tts eval`.")
@click.option("--tokens", type=int, multiple=True, metavar="N…", help="Token budgets.")
@click.option("--seconds", type=float, multiple=True, metavar="S…", help="Deadlines, at the recorded latencies.")
@click.option("--usd", type=float, multiple=True, metavar="$…", help="Budgets in dollars; needs --prices.")
@click.option("--flops", type=float, multiple=True, metavar="F…", help="Budgets in floating-point operations.")
@click.option(
    "--samples",
    type=click.IntRange(1),
    multiple=True,
    metavar="N…",
    help="Numbers of samples, each paid in full.  [default: 1 2 4 …, as many as every problem has]",
)
@click.option(
    "--resamples",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="Rehearsed jobs of each strategy and budget, spread over the problems.",
)
@click.option("--target-accuracy", type=click.FloatRange(0, 1), help="Name the cheapest setting that reaches this.")
@click.option("--max-p95-seconds", type=click.FloatRange(0), help="Only settings of which 95 % end by then.")
@VERIFIER
@click.option("--limit", type=click.IntRange(1), help="Problems.  [default: all of the bank's]")
@click.option("--data", type=click.Path(path_type=File), help="The file of problems, if the bank was filled from one.")
@click.option("--prices", type=click.Path(path_type=File), help="Price table (TOML), for a column in dollars.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--baseline", metavar="SPEC", help="The method that others are compared with.  [default: the first]")
@click.option("--out", type=click.Path(path_type=File), help="Folder for figures and plot.  [default: none is written]")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON and nothing else.")
def whatif(banks: tuple[File, ...], **options: Any) -> None:
    """Rehearse strategies on recorded samples: accuracy, cost and latency, without generating a token.

    \b
    tts whatif banks/chain --strategy best_of_n self_consistency --samples 1 4 16 64
    tts whatif banks/chain --seconds 0.5 1 2 --target-accuracy 0.6 --max-p95-seconds 1.5
    tts whatif banks/chain -s best_of_n best_of_n@recorded:by=prm,how=prod --samples 4 16
    """
    guarded(lambda: optional("rehearsing").whatif(banks, options))
