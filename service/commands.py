"""The commands of `tts`: the composition root, where strategies, verifiers, backends and a journal meet.

Nothing heavy is imported before it is needed: `tts --help` answers without torch.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from service.options import (
    USUAL_VERIFIER,
    Variadic,
    ask,
    asked_by_profile,
    check_flops,
    checked,
    models_of,
    open_backend,
    prices_of,
    profile_of,
    run_with,
    strategy_of,
    verifier_of,
    with_defaults,
    with_methods,
)
from strategies import STRATEGIES
from tts.answers import Code, Runner, kinds
from tts.backends.base import Backend, is_virtual
from tts.errors import BackendError, JournalError, NoSamples, UsageError
from tts.halt import Halt
from tts.sandbox import Sandbox
from tts.strategy import Strategy, Verifier
from tts.types import Budget, Problem, Result, Role, Sampling
from verifiers import VERIFIERS

if TYPE_CHECKING:
    from tts.journal import Journal, Record

DEFAULT_TOKENS = 2_000
BAD_USAGE, BACKEND_FAILED, INTERRUPTED = 2, 4, 130
EXIT_CODES = """\b
Exit codes:
  0    answered
  2    bad usage
  3    budget or deadline ended without an answer
  4    the backend failed
  130  Ctrl-C"""

EVAL_EXIT_CODES = """\b
Exit codes:
  0    done; problems that failed count as wrong and are listed
  2    bad usage
  4    every problem failed, or a model is gone; what was written is kept
  130  Ctrl-C; what was written is kept"""


DOCTOR_EXIT_CODES = """\b
Exit codes:
  0    nothing is a problem
  1    something is
  2    bad usage
  4    no server answers
  130  Ctrl-C"""


STRATEGY_SPEC = "NAME[:PARAMETER=VALUE,…]"
VERIFIER_SPEC = f"{STRATEGY_SPEC}[@BACKEND]"
VERIFIER = click.option(
    "--verifier",
    default=USUAL_VERIFIER,
    show_default=True,
    metavar=VERIFIER_SPEC,
    help=f"Scores samples: {', '.join(VERIFIERS)}; read by the model of a backend.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="test-time-scaling", prog_name="tts")
def cli() -> None:
    """Better answers for the compute you have: test-time scaling under a hard budget."""


@cli.command(epilog=EXIT_CODES)
@click.argument("problem")
@click.option(
    "-s",
    "--strategy",
    default="best_of_n",
    show_default=True,
    metavar=STRATEGY_SPEC,
    help="How to spend; see `tts strategies`.",
)
@click.option(
    "-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A strategy's parameter; repeatable."
)
@click.option(
    "--tokens", type=int, help=f"Most tokens any model may generate, all in all.  [default: {DEFAULT_TOKENS}]"
)
@click.option("--seconds", type=float, help="Deadline: the best answer by then.")
@click.option("--usd", type=float, help="Most dollars, prefill included; needs --prices.")
@click.option("--flops", type=float, help="Most floating-point operations, prefill included.")
@click.option(
    "--backend",
    "backend_name",
    default="local",
    show_default=True,
    help="local (the embedded SmolLM2), local:DIR, local:FILE.gguf, sglang:URL[,URL…] (served, on one or more "
    "replicas), litellm:PROVIDER/MODEL, bank:DIR (recorded samples), fake:MODULE:FUNCTION, or NAME[:MODE] of a profile "
    "in tts.toml (or the file in TTS_CONFIG).",
)
@click.option(
    "--answer",
    default="text",
    show_default=True,
    help=f"Kind of answer: {', '.join(sorted(kinds()))}; "
    'or its JSON form, such as \'{"kind": "choice", "letters": "ABCDE"}\'.',
)
@click.option("--instruction", help="How to answer, instead of what the answer kind asks for by itself.")
@VERIFIER
@click.option(
    "--verifier-param", "verifier_params", multiple=True, metavar="NAME=VALUE", help="A verifier's parameter."
)
@click.option("--step-end", default="\\n\\n", show_default=True, help="What ends a step; searches go step by step.")
@click.option("--max-tokens", type=int, help="Most tokens of one sample.  [default: 512]")
@click.option("--temperature", type=float, help="Sampling temperature.  [default: 0.8]")
@click.option("--top-p", type=float, help="Nucleus sampling.  [default: 1.0]")
@click.option(
    "--prices", type=click.Path(path_type=File), help="Price table (TOML): dollars per million tokens by model."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--journal",
    "journal_file",
    type=click.Path(path_type=File),
    help="Write every step here; the same command with the same file resumes after a crash.",
)
@click.option("--show", type=click.Choice(["tree"]), help="Draw the search: its steps, their scores, what was pruned.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on standard output.")
def solve(problem: str, **options: Any) -> None:
    """Solve PROBLEM (- reads standard input) with the best answer the budget can buy.

    \b
    tts solve "What is 12 * 17?" --answer maths --tokens 4000
    tts solve - --strategy self_consistency -p n=32 -p weights=borda < problem.txt
    tts solve "…" --answer maths --strategy ets --verifier prm@local:DIR --show tree
    tts solve "…" --answer maths --backend sglang:http://a:30000,http://b:30000 --verifier prm@sglang:http://c:30000
    """
    explicit = _explicit()
    guarded(lambda: _solve(problem, with_defaults(options, explicit), explicit))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON Schemas of the parameters.")
def strategies(as_json: bool) -> None:
    """List the strategies and verifiers, their parameters, and when to use which."""
    if as_json:
        schemas = {name: {"when": s.when, "parameters": s.model_json_schema()} for name, s in STRATEGIES.items()}
        click.echo(json.dumps(schemas, indent=2))
        return
    _list(STRATEGIES, "--param")
    click.echo("\nVerifiers, which score what strategies write (--verifier NAME):\n")
    _list(VERIFIERS, "--verifier-param")


def _list(named: Mapping[str, type[Strategy] | type[Verifier]], option: str) -> None:
    """Every name with its parameters, their defaults and, where there are few, their values."""
    for name, each in named.items():
        click.echo(f"{name}\n  {each.when}")
        schema = each.model_json_schema().get("properties", {})
        for parameter, field in each.model_fields.items():
            values = _values(schema[parameter])
            choice = f" ({', '.join(values)})" if values else ""
            click.echo(f"  {option} {parameter}={field.default}  {field.description or ''}{choice}")


def _values(schema: Mapping[str, Any]) -> list[str]:
    """Those that a parameter may have, where they are listed."""
    parts = (schema, *schema.get("anyOf", ()))
    return [str(value) for part in parts for value in part.get("enum", [part["const"]] if "const" in part else [])]


@cli.command(epilog=EXIT_CODES)
@click.argument("journal_file", metavar="FILE", type=click.Path(path_type=File))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on standard output.")
@click.option("--show", type=click.Choice(["tree"]), help="Draw the search, as tts solve does.")
def replay(journal_file: File, as_json: bool, show: str | None) -> None:
    """Reproduce the result recorded in the journal FILE, offline: no model is loaded and nothing is spent."""
    guarded(lambda: _replay(journal_file, as_json, show))


@cli.command("eval", cls=Variadic, epilog=EVAL_EXIT_CODES)
@click.argument("suite")
@click.option(
    "-s",
    "--strategy",
    "strategies",
    multiple=True,
    default=("best_of_n", "self_consistency"),
    show_default=True,
    metavar="SPEC…",
    help="NAME, NAME:PARAMETER=VALUE,… and perhaps @VERIFIER; several may follow.",
)
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
    explicit = _explicit()
    guarded(lambda: _extra("evaluation").run(suite, with_methods(options, explicit)))


@cli.command("report")
@click.argument("folders", metavar="DIR…", nargs=-1, required=True, type=click.Path(path_type=File))
@click.option("--baseline", metavar="SPEC", help="The method that others are compared with.  [default: the first]")
@click.option("--out", type=click.Path(path_type=File), help="Where to write the report.  [default: the first DIR]")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON and nothing else.")
def report(folders: tuple[File, ...], baseline: str | None, out: File | None, as_json: bool) -> None:
    """Merge the runs in some folders into one report: tables, curves, and one HTML page."""
    guarded(lambda: _extra("evaluation").report(folders, out or folders[0], baseline, as_json))


@cli.group()
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
    guarded(lambda: _extra("banking").fill(suite, options))


@bank.command("show")
@click.argument("folder", metavar="BANK", type=click.Path(path_type=File))
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON and nothing else.")
def bank_show(folder: File, as_json: bool) -> None:
    """Say what a bank holds: model, sampling, problems, samples, verifiers' scores, size."""
    guarded(lambda: _extra("banking").show(folder, as_json))


@bank.command("merge")
@click.argument("folders", metavar="BANK…", nargs=-1, required=True, type=click.Path(path_type=File))
@click.option("--out", type=click.Path(path_type=File), required=True, help="A new folder.")
def bank_merge(folders: tuple[File, ...], out: File) -> None:
    """Put the samples of several banks of one model into a new one; a sample that is in two of them counts once."""
    guarded(lambda: _extra("banking").merge(folders, out))


@cli.command("whatif", cls=Variadic)
@click.argument("banks", metavar="BANK…", nargs=-1, required=True, type=click.Path(path_type=File))
@click.option(
    "-s",
    "--strategy",
    "strategies",
    multiple=True,
    default=("best_of_n", "self_consistency"),
    show_default=True,
    metavar="SPEC…",
    help="As for `tts eval`.",
)
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
    guarded(lambda: _extra("rehearsing").whatif(banks, options))


@cli.command(epilog=DOCTOR_EXIT_CODES)
@click.argument("backend")
@click.option(
    "--verifier",
    metavar=VERIFIER_SPEC,
    help="The verifier, and the servers of its model.  [default: that of a profile]",
)
@click.option(
    "--verifier-param", "verifier_params", multiple=True, metavar="NAME=VALUE", help="A verifier's parameter."
)
@click.option("--problem", metavar="TEXT", help="What servers are tried with.  [default: a multiplication]")
@click.option("--good", metavar="TEXT", help="A right solution of it, for the verifier.")
@click.option("--bad", metavar="TEXT", help="A wrong one.")
@click.option("--step-end", default="\\n\\n", show_default=True, help="What ends a step of theirs.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON list and nothing else.")
def doctor(backend: str, **options: Any) -> None:
    """Examine the SGLang servers of BACKEND: what they are like, what they do, and what to change.

    \b
    tts doctor sglang:http://a:30000,http://b:30000
    tts doctor sglang:http://a:30000 --verifier prm@sglang:http://c:30000 --json
    """
    guarded(lambda: _extra("doctor", "sglang").doctor(backend, options))


@cli.command("up")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve at.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option("--backend", help="The model, as for `tts solve`, that requests without one mean.  [default: local]")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=File),
    default=".tts",
    show_default=True,
    help="Where the embedded Valkey keeps jobs and journals; not used where TTS_REDIS_URL names another one.",
)
@click.option(
    "--observe", is_flag=True, help="Start a Prometheus too, if there is one, and say where the dashboards are."
)
def up(**options: Any) -> None:
    """Serve on this machine: API, worker, store and model, in the foreground.

    \b
    tts up
    tts up --backend sglang:http://gpu1:30000,http://gpu2:30000
    TTS_REDIS_URL=redis://store:6379/0 tts up --workers 4

    Ctrl-C stops everything; jobs that had not ended go on at the next start.
    """
    guarded(lambda: _extra("serving", "service").up(**options))


@cli.command("api")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve at.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
def api(host: str, port: int) -> None:
    """Serve the API alone; workers and the store at TTS_REDIS_URL are elsewhere."""
    guarded(lambda: _extra("serving", "service").api(host, port))


@cli.command("worker")
def worker() -> None:
    """Work on the jobs in the store at TTS_REDIS_URL; as many of these as there is to do.

    SIGTERM: claims nothing more, ends what is running within TTS_DRAIN_SECONDS, and hands back the rest.
    """
    guarded(lambda: _extra("serving", "service").worker())


@cli.command("dead")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="The newest so many.")
def dead(limit: int) -> None:
    """List dead letters: jobs that nobody could bring to their ends, and why."""
    guarded(lambda: _extra("serving", "service").dead(limit))


@cli.group("keys")
def keys() -> None:
    """API keys and what their tenants may do, in the store at TTS_REDIS_URL."""


@keys.command("create")
@click.argument("tenant")
def keys_create(tenant: str) -> None:
    """Make a key for TENANT and print it; it cannot be shown again."""
    guarded(lambda: _extra("serving", "service").create_key(tenant))


@keys.command("list")
def keys_list() -> None:
    """List keys by their ids, and their tenants."""
    guarded(lambda: _extra("serving", "service").list_keys())


@keys.command("revoke")
@click.argument("id")
def keys_revoke(id: str) -> None:
    """End the key ID, at once and everywhere."""
    guarded(lambda: _extra("serving", "service").revoke_key(id))


@keys.command("limit")
@click.argument("tenant")
@click.option("--tokens", type=int, help="Tokens a period.")
@click.option("--usd", type=float, help="Dollars a period.")
@click.option("--period", help="minute, hour, day, week or month (30 days).  [default: day]")
@click.option("--rate", type=float, help="Jobs a minute.")
@click.option("--queued", type=int, help="Jobs waiting at once.")
@click.option("--running", type=int, help="Jobs running at once; more wait.")
def keys_limit(tenant: str, **limits: Any) -> None:
    """Set what TENANT may do, and show it; what is left out has no limit. Without any option, only show."""
    if any(value is not None for value in limits.values()):
        guarded(lambda: _extra("serving", "service").limit_tenant(tenant, limits))
    guarded(lambda: _extra("serving", "service").list_limits(tenant))


def _extra(module: str, extra: str = "evals") -> Any:
    """A module of commands whose libraries are an extra of their own."""
    try:
        return importlib.import_module(f"service.{module}")
    except ModuleNotFoundError as error:
        raise UsageError(f"this needs {error.name}; pip install 'test-time-scaling[{extra}]'") from error


def guarded(command: Callable[[], int | None]) -> None:
    """Run a command; turn every error of ours into one line and its exit code."""
    try:
        code = command()
    except (UsageError, JournalError) as error:
        fail(error, BAD_USAGE)
    except BackendError as error:
        fail(error, BACKEND_FAILED)
    except KeyboardInterrupt:
        fail("interrupted before anything was spent", INTERRUPTED)
    if code:
        sys.exit(code)


def fail(error: object, code: int) -> NoReturn:
    """One line on standard error, and out."""
    click.echo(f"tts: {error}", err=True)
    sys.exit(code)


def _explicit() -> frozenset[str]:
    """The options that were given, and not left at their defaults."""
    context = click.get_current_context()
    given = (name for name in context.params if context.get_parameter_source(name) != ParameterSource.DEFAULT)
    return frozenset(given)


def _solve(text: str, options: dict[str, Any], explicit: frozenset[str]) -> int:
    from service.display import progress, show, working
    from service.tree import SearchTree
    from tts.journal import JsonlJournal, MemoryJournal

    strategy = strategy_of(options["strategy"], options["params"])
    scorer = verifier_of(options["verifier"], options["verifier_params"])
    problem = ask(text, options["answer"], options["instruction"], options["step_end"])
    problem = asked_by_profile(profile_of(options["backend_name"]), problem, strategy, explicit)
    units = {unit: options[unit] for unit in ("tokens", "seconds", "usd", "flops") if options[unit] is not None}
    budget = checked(Budget, units or {"tokens": DEFAULT_TOKENS})
    drawn = {name: options[name] for name in ("max_tokens", "temperature", "top_p") if options[name] is not None}
    sampling = checked(Sampling, drawn)
    runner = _runner(problem, scorer)
    with ExitStack() as stack:
        journal = stack.enter_context(JsonlJournal(options["journal_file"])) if options["journal_file"] else None
        if not units:
            click.echo(f"no budget given: using --tokens {DEFAULT_TOKENS}", err=True)
        with working(f"loading {options['backend_name']}"):
            backend = open_backend(options["backend_name"])
            readers: dict[str, Backend] = {}
            models = {"policy": backend, **models_of(strategy, scorer, readers)}
        prices = prices_of(options["prices"], models.values(), options["backend_name"], readers)
        check_flops("flops" in units, models.values())
        if journal and is_virtual(backend):
            raise UsageError("a job on recorded samples costs nothing and is not resumed: leave out --journal")
        records = journal or MemoryJournal()
        view = stack.enter_context(progress(problem, strategy, budget))
        outcome = run_with(
            models.values(),
            _interruptible(
                problem, strategy, models, budget, scorer, sampling, prices, options["seed"], records, view, runner
            ),
        )
        tree = SearchTree(asyncio.run(records.read())) if options["show"] == "tree" else None
    return show(outcome, strategy.name, options["as_json"], tree)


def _runner(problem: Problem, scorer: Verifier) -> Runner | None:
    """The sandbox, where programs are to be run in one: a verifier insists on it, a vote does without."""
    from service.display import working

    kind, insists = problem.kind, "runner" in scorer.needs
    if not isinstance(kind, Code) or not (insists or kind.tests or kind.inputs):
        return None
    try:
        with working("trying the sandbox"):
            return Sandbox().checked()
    except UsageError as error:
        if insists:
            raise
        click.echo(f"{error}; programs count as the same only if they are written the same", err=True)
        return None


async def _interruptible(
    problem: Problem,
    strategy: Strategy,
    models: Mapping[Role, Backend],
    budget: Budget,
    scorer: Verifier,
    sampling: Sampling,
    prices: dict[str, Any],
    seed: int,
    journal: Journal,
    observe: Callable[[Record], None],
    runner: Runner | None,
) -> Result | NoSamples:
    """Solve; the first Ctrl-C asks for the best answer so far, the second one kills as usual."""
    from tts.solve import solve as solve_problem

    halt, loop = Halt(), asyncio.get_running_loop()

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        halt.set("cancelled")

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        return await solve_problem(
            problem,
            strategy,
            models,
            budget=budget,
            scorer=scorer,
            sampling=sampling,
            prices=prices,
            seed=seed,
            journal=journal,
            observe=observe,
            halt=halt,
            runner=runner,
        )
    except NoSamples as error:
        return error
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _replay(file: File, as_json: bool, drawn: str | None) -> int:
    from service.display import show
    from service.tree import SearchTree
    from tts.journal import parse
    from tts.replay import replay_file

    result, header = asyncio.run(replay_file(file, STRATEGIES, VERIFIERS))
    tree = SearchTree(parse(file.read_bytes(), file)[0]) if drawn == "tree" else None
    return show(result, header.strategy.name, as_json, tree)
