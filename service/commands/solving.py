"""`tts solve`: where a strategy, a verifier, a backend and a journal meet."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import click

from service.commands.shared import EXIT_CODES, STRATEGY_SPEC, VERIFIER, given_options, guarded
from service.options import (
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
)
from tts.answers import Code, Runner, kinds
from tts.backends.base import Backend, is_virtual
from tts.errors import NoSamples, UsageError
from tts.halt import Halt
from tts.sandbox import Sandbox
from tts.strategy import Strategy, Verifier
from tts.types import Budget, Problem, Result, Role, Sampling

if TYPE_CHECKING:
    from tts.journal import Journal, Record

DEFAULT_TOKENS = 2_000


@click.command(epilog=EXIT_CODES)
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
    explicit = given_options()
    guarded(lambda: _solve(problem, with_defaults(options, explicit), explicit))


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
